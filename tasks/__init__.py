"""Tasks that come with scorefield; this package keeps the name ours."""
