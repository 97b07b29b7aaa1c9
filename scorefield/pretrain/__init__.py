"""Make a small teacher from captioned pictures: autoencoder, judge, then text encoder and transformer."""
