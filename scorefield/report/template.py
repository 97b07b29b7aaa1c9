"""The page's style sheet and Jinja2 template (autoescaped;
only our own SVG and task fragments go in raw)."""

STYLE = """
:root {
  --paper: #fbfaf7; --card: #ffffff; --ink: #22262b; --soft: #676d75; --rule: #e2dfd8; --faint: #efede7;
  --accent: #1f5f8b; --good: #2c7a4b; --bad: #b3402e; --warn: #fdf1d3; --warn-ink: #6b4c00;
  --c0: #1f5f8b; --c1: #c8703a; --c2: #4d8a5b; --c3: #8a5a9e; --c4: #a8893a; --c5: #5b6770;
  color-scheme: light dark;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16181b; --card: #1d2024; --ink: #e4e2dd; --soft: #9a9fa6; --rule: #33373c; --faint: #26292e;
    --accent: #7db4dc; --good: #74c08f; --bad: #e88a78; --warn: #3b3017; --warn-ink: #f0d591;
    --c0: #7db4dc; --c1: #e39b6b; --c2: #86c095; --c3: #c09ad2; --c4: #d6bb70; --c5: #a3adb5;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans",
  sans-serif; }
main { max-width: 1280px; margin: 0 auto; padding: 40px 36px 72px; }
h1, h2 { font-family: "Iowan Old Style", "Palatino Linotype", Charter, Georgia, "DejaVu Serif", serif;
  font-weight: 600; line-height: 1.25; }
.kicker { margin: 0 0 10px; color: var(--soft); font-size: 14px; }
.kicker b { color: var(--ink); font-weight: 600; }
h1 { font-size: clamp(22px, 2.7vw, 32px); margin: 0 0 22px; max-width: 38em; text-wrap: balance; }
h2 { font-size: 20px; margin: 0 0 8px; }
.warnings { background: var(--warn); color: var(--warn-ink); padding: 12px 18px; border-radius: 6px; margin: 0 0 28px; }
.warnings ul { margin: 6px 0 0; padding-left: 20px; }
.banner { background: var(--warn); color: var(--warn-ink); padding: 10px 16px; border-radius: 6px;
  margin: 0 0 22px; font-weight: 600; }
.facts { display: flex; flex-wrap: wrap; gap: 10px 34px; margin: 0; padding: 14px 0;
  border-top: 1px solid var(--rule); }
.facts div { min-width: 0; }
dt { color: var(--soft); font-size: 13px; }
.facts dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
section { display: grid; grid-template-columns: 190px minmax(0, 1fr); gap: 0 36px;
  border-top: 1px solid var(--rule); padding: 28px 0 36px; }
section > header p, .note { color: var(--soft); font-size: 14px; line-height: 1.5; margin: 0 0 12px; }
section > div { min-width: 0; }
.fragment { display: block; }
label.only { display: inline-block; margin: 0 0 14px 6px; font-size: 14px; color: var(--soft);
  cursor: pointer; }
input { accent-color: var(--accent); }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(210px, 1fr)); gap: 22px 20px; }
.pair { margin: 0; min-width: 0; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: 3px; }
.side { position: relative; }
.side img, .film img { display: block; width: 100%; aspect-ratio: 1; object-fit: contain;
  background: var(--faint); border-radius: 3px; }
.none { display: grid; place-items: center; aspect-ratio: 1; background: var(--faint); color: var(--soft);
  font-size: 12px; border-radius: 3px; text-align: center; }
.who { display: flex; justify-content: space-between; font-size: 12px; color: var(--soft);
  padding: 2px 1px 0; }
.ok { color: var(--good); font-weight: 700; } .no { color: var(--bad); font-weight: 700; }
figcaption { font-size: 14px; line-height: 1.4; margin-top: 3px; overflow-wrap: anywhere; }
.misread { font-size: 13px; color: var(--soft); }
.misread b { color: var(--bad); font-weight: 600; }
#misses:checked ~ .pairs .pair:not(.miss) { display: none; }
.scroll { overflow-x: auto; }
.film { border-collapse: separate; border-spacing: 3px; width: 100%; min-width: 640px;
  table-layout: fixed; }
.film th { font-weight: 400; font-size: 13px; color: var(--soft); text-align: left; padding: 0 0 2px; }
.film img { max-width: 180px; }
.film .gap { width: 8px; }
.film .words td { font-size: 14px; padding: 0 0 12px; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 360px), 1fr));
  gap: 26px 30px; }
.chart { margin: 0; min-width: 0; }
.chart h3 { font-size: 14px; font-weight: 600; margin: 0 0 4px; }
svg { display: block; width: 100%; height: auto; }
.grid { stroke: var(--faint); } .axis { stroke: var(--soft); stroke-width: .8; }
.tick { fill: var(--soft); font-size: 11px; font-variant-numeric: tabular-nums; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; } .raw { stroke-width: 1; opacity: .28; }
.line.d1 { stroke-dasharray: 7 3; } .line.d2 { stroke-dasharray: 2 3; } .line.d3 { stroke-dasharray: 9 3 2 3; }
.band { stroke: none; opacity: .14; }
.mark { stroke: var(--soft); stroke-dasharray: 4 3; }
.hit { opacity: 0; } .hit.dot, .hit:hover { opacity: 1; }
.line.s0 { stroke: var(--c0); } .line.s1 { stroke: var(--c1); } .line.s2 { stroke: var(--c2); }
.line.s3 { stroke: var(--c3); } .line.s4 { stroke: var(--c4); } .line.s5 { stroke: var(--c5); }
.band.s0 { fill: var(--c0); } .band.s1 { fill: var(--c1); } .band.s2 { fill: var(--c2); }
.band.s3 { fill: var(--c3); } .band.s4 { fill: var(--c4); } .band.s5 { fill: var(--c5); }
.hit.s0, i.s0 { fill: var(--c0); background: var(--c0); }
.hit.s1, i.s1 { fill: var(--c1); background: var(--c1); }
.hit.s2, i.s2 { fill: var(--c2); background: var(--c2); }
.hit.s3, i.s3 { fill: var(--c3); background: var(--c3); }
.hit.s4, i.s4 { fill: var(--c4); background: var(--c4); }
.hit.s5, i.s5 { fill: var(--c5); background: var(--c5); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 13px; color: var(--soft);
  padding-left: 11%; }
.legend i { display: inline-block; width: 14px; height: 3px; border-radius: 2px; margin-right: 6px;
  vertical-align: 4px; }
.line.reference { stroke: var(--soft); stroke-width: 1.4; stroke-dasharray: 1 2.5; }
.hit.reference { fill: var(--soft); }
.legend i.reference { height: 0; border-top: 2px dotted var(--soft); border-radius: 0; background: none; }
.legend i.s9 { height: 0; border-top: 2px dashed var(--soft); border-radius: 0; }
.final { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; white-space: nowrap;
  }
.final th { font-weight: 400; font-size: 13px; color: var(--soft); text-align: right;
  vertical-align: bottom;
  white-space: normal; padding: 4px 10px; border-bottom: 1px solid var(--soft); line-height: 1.3; }
.final td { text-align: right; padding: 8px 10px; border-bottom: 1px solid var(--rule); }
.final td:first-child, .final th:first-child { text-align: left; padding-left: 0; }
.final tr.student td { font-weight: 650; color: var(--accent); }
.final tr.last td { color: var(--soft); font-size: 14px; border-bottom: 0; }
.big { font: 600 40px/1.1 "Iowan Old Style", "Palatino Linotype", Charter, Georgia, "DejaVu Serif",
  serif; margin: 0 0 14px; }
.bars { display: grid; grid-template-columns: minmax(90px, max-content) minmax(0, 1fr) max-content;
  gap: 8px 14px;
  align-items: center; font-size: 14px; font-variant-numeric: tabular-nums; }
.track { position: relative; height: 12px; background: var(--faint); border-radius: 2px; }
.track span { position: absolute; left: 0; top: 0; bottom: 0; border-radius: 2px; background: var(--c0); }
.track span.teacher { background: var(--c1); }
.track i { position: absolute; top: -3px; bottom: -3px; width: 2px; margin-left: -1px;
  background: var(--ink); }
.track i.t { background: var(--c1); }
.groups { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 310px), 1fr));
  gap: 26px 40px; }
.groups .wide { grid-column: 1 / -1; }
.groups h3 { font-size: 14px; margin: 0 0 8px; font-weight: 600; }
.key { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 0 0 14px; font-size: 13px;
  color: var(--soft); }
.key i { display: inline-block; margin-right: 7px; }
.key .k0 { width: 16px; height: 10px; background: var(--c0); border-radius: 2px; }
.key .k1, .key .k2 { width: 2px; height: 13px; background: var(--c1); vertical-align: -2px; }
.key .k2 { background: var(--ink); }
.env { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 10px 24px;
  margin: 0 0 6px; }
.env dd { margin: 0; font-size: 14px; overflow-wrap: anywhere; }
pre { font: 13px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  background: var(--card); border: 1px solid var(--rule); border-radius: 6px; padding: 12px 14px;
  margin: 8px 0 14px;
  overflow-x: auto; }
summary { cursor: pointer; color: var(--accent); }
@media (max-width: 860px) {
  main { padding: 22px 16px 48px; }
  section { grid-template-columns: minmax(0, 1fr); padding: 22px 0 28px; }
  .facts { gap: 10px 24px; }
  .pairs { grid-template-columns: repeat(auto-fill, minmax(155px, 1fr)); gap: 18px 12px; }
  .facts dd { font-size: 15px; }
}
@media print { section { break-inside: avoid-page; } }
"""

PAGE = """{% macro picture(uri, what) %}
{% if uri %}<img src="{{ uri }}" alt="{{ what }}">{% else %}<div class="none">no picture</div>{% endif %}
{% endmacro %}
{% macro cards(list) %}
<div class="pairs">
{% for card in list %}
<figure class="pair{{ ' miss' if card.miss }}">
<div class="two">
{% for side in card.sides %}
<div class="side">{{ picture(side.uri, side.name ~ ': ' ~ card.prompt) }}
<div class="who"><span>{{ side.name }}</span>
{% if side.ok is true %}<span class="ok" title="read as asked">✓</span>
{% elif side.ok is false %}<span class="no" title="read otherwise">✗</span>{% endif %}
</div></div>
{% endfor %}
</div>
<figcaption>{{ card.prompt }}
{% if card.misread or card.confidence %}<div class="misread">
{% for asked, read in card.misread %}{{ asked }} read as
<b>{{ read }}</b>{{ ', ' if not loop.last }}{% endfor %}
{% if card.confidence %}{{ ' · ' if card.misread }}the judge is {{ card.confidence }} sure{% endif %}
</div>{% endif %}
</figcaption></figure>
{% endfor %}
</div>
{% endmacro %}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{{ title }} · scorefield</title>
<style>{{ style | safe }}</style>
</head>
<body>
<main>
<p class="kicker"><b>{{ title }}</b>{{ ' · ' ~ started if started }}</p>
{% if unfinished %}
<p class="banner">unfinished: iteration {{ done }}{{ ' of ' ~ total if total }}</p>
{% endif %}
<h1>{{ headline or ('No result yet.' if unfinished else 'This run holds no figures of its result.') }}</h1>
{% if facts %}
<dl class="facts">{% for name, value in facts %}
<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>{% endfor %}</dl>
{% endif %}

{% if warnings %}
<div class="warnings"><b>What the monitors saw</b>
<ul>{% for text in warnings %}<li>{{ text }}</li>{% endfor %}</ul></div>
{% endif %}

{% if pairs %}
<section id="pairs"><header><h2>Side by side</h2>
{% if right == 'after' %}
<p>Left before the refinement, right after it, from the same latents.</p>
{% else %}
<p>Left the teacher{{ ' in ' ~ (teacher_steps | int) ~ ' steps' if teacher_steps }}, right the student,
same prompt. A tick means that the judge read the picture as asked.</p>
{% endif %}
{% if pairs_total > pairs | length %}
<p>The first {{ pairs | length }} of {{ pairs_total }} pairs.</p>{% endif %}
</header><div>
{% if pairs | selectattr('miss') | list %}
<input type="checkbox" id="misses"><label class="only" for="misses">only the student's misses</label>
{% endif %}
{{ cards(pairs) }}</div></section>
{% endif %}

{# without pairs to begin with, what the task shows of itself comes first #}
{% if not pairs %}{% for fragment in fragments %}
<section class="fragment">{{ fragment | safe }}</section>
{% endfor %}{% endif %}

{% if film %}
<section id="film"><header><h2>{{ 'Over training' if not pairs else 'The student over training' if right == 'student'
else 'The generator over training' }}</h2>
<p>The same {{ 'views or seeds' if not pairs else 'prompts and seeds' if right == 'student' else 'latents' }}; the
numbers are iterations.</p></header>
<div class="scroll"><table class="film">
<tr>{% for name in film.head %}
{% if name == 'teacher' %}<th class="gap"></th>{% endif %}
<th>{{ name }}</th>
{% endfor %}</tr>
{% for prompt, uris in film.rows %}
<tr>{% for uri in uris %}{% if film.head[loop.index0] == 'teacher' %}<td></td>{% endif %}<td>
{{ picture(uri, prompt ~ ', ' ~ film.head[loop.index0]) }}</td>{% endfor %}</tr>
<tr class="words"><td colspan="{{ uris | length + 1 }}">{{ prompt }}</td></tr>
{% endfor %}
</table></div></section>
{% endif %}

{% if sheet %}
<section id="sheet"><header><h2>The last grid</h2>
<p>Of iteration {{ sheet.iteration }}, whole; those of all iterations are in samples/.</p></header>
<div class="scroll"><table class="film">
<tr>{% for name in sheet.head %}<th>{{ name }}</th>{% endfor %}</tr>
{% for name, uris in sheet.rows %}
<tr>{% for uri in uris %}<td>{{ picture(uri, sheet.head[loop.index0] ~ ', ' ~ name) }}</td>{% endfor %}</tr>
<tr class="words"><td colspan="{{ uris | length }}">{{ name }}</td></tr>
{% endfor %}
</table></div></section>
{% endif %}

<section id="curves"><header><h2>Curves</h2>
{% if charts %}<p>Pale lines are the logged values, strong ones their moving mean.</p>{% endif %}</header>
<div>{% if not charts %}<p class="note">There are no logged figures yet.</p>{% endif %}
<div class="charts">
{% for name, svg, names in charts %}
<figure class="chart"><h3>{{ name }}</h3>{{ svg | safe }}
{% if names %}<div class="legend">{% for css, text in names %}<span><i class="{{ css }}"></i>{{ text }}</span>
{% endfor %}</div>{% endif %}</figure>
{% endfor %}
</div></div></section>

{% if table %}
<section id="final"><header><h2>Final figures</h2>
{% if right == 'student' %}
<p>Every figure beside its ceiling: real held-out images, then the teacher.</p>
{% else %}
<p>The same latents and labels before and after, against real pictures.</p>
{% endif %}
</header>
<div class="scroll"><table class="final">
<tr><th></th>{% for name in table.head %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in table.rows %}
<tr class="{{ 'student' if row[0] == right else 'last' if '/' in row[0] else '' }}">
{% for text in row %}<td>{{ text }}</td>{% endfor %}</tr>
{% endfor %}
</table></div></section>
{% elif not unfinished and not fragments %}
<section id="final"><header><h2>Final figures</h2></header>
<p class="note">summary.json holds no figures of a result.</p></section>
{% endif %}

{% if scores %}
<section id="scores"><header><h2>Scores</h2>
<p>By pretrained models; in brackets the 95 % interval of the mean over pictures.</p></header>
<div class="scroll"><table class="final">
<tr><th></th>{% for name in scores.head %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in scores.rows %}
<tr class="{{ 'student' if row[0] == right else '' }}">{% for text in row %}<td>{{ text }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% for title, definition, model in scores.notes %}
<p class="note"><b>{{ title }}</b>: {{ definition }}. Read by {{ model }}.</p>
{% endfor %}
</div></section>
{% endif %}

{% if speed %}
<section id="speed"><header><h2>Speed-up</h2><p>Time per picture on the same device.</p></header>
<div><p class="big">{{ speed.factor }} ×</p><div class="bars">
{% for bar in speed.bars %}<span>{{ bar.name }}</span>
<div class="track">
<span class="{{ 'teacher' if loop.first }}" style="width:{{ '%.2f' | format(bar.width) }}%"></span></div>
<span>{{ bar.text }}</span>{% endfor %}
</div></div></section>
{% endif %}

{% if attributes %}
<section id="attributes"><header><h2>Accuracy per attribute</h2>
<p>The student's weakest first.</p></header><div>
<div class="key"><span><i class="k0"></i>student</span><span><i class="k1"></i>teacher</span>
<span><i class="k2"></i>real images, the ceiling</span></div>
<div class="groups">
{% for name, bars in attributes %}
<div{{ ' class=wide' if bars | length == 1 }}><h3>{{ name }}</h3><div class="bars">
{% for bar in bars %}<span>{{ bar.name }}</span><div class="track" title="{{ bar.text }}">
{% if bar.student is not none %}<span style="width:{{ '%.2f' | format(bar.student) }}%"></span>{% endif %}
{% if bar.teacher is not none %}<i class="t" style="left:{{ '%.2f' | format(bar.teacher) }}%"></i>{% endif %}
{% if bar.real is not none %}<i style="left:{{ '%.2f' | format(bar.real) }}%"></i>{% endif %}
</div><span>{{ '%.0f %%' | format(bar.student) if bar.student is not none else '–' }}</span>{% endfor %}
</div></div>
{% endfor %}
</div></div></section>
{% endif %}

{% if worst %}
<section id="worst"><header><h2>The {{ worst | length }} worst prompts</h2>
<p>Where the judge trusts the student's picture least.</p></header><div>{{ cards(worst) }}</div></section>
{% endif %}

{% if pairs %}{% for fragment in fragments %}
<section class="fragment">{{ fragment | safe }}</section>
{% endfor %}{% endif %}

<section id="environment"><header><h2>Environment</h2></header><div>
{% if command %}<p class="note">The command</p><pre>{{ command }}</pre>{% endif %}
{% if environment %}
<dl class="env">{% for name, value in environment %}
<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>{% endfor %}</dl>
{% else %}<p class="note">environment.json is not there.</p>{% endif %}
</div></section>

<section id="config"><header><h2>Configuration</h2></header><div>
{% if config %}<details><summary>The exact config.yaml</summary><pre>{{ config }}</pre></details>
{% else %}<p class="note">config.yaml is not there.</p>{% endif %}
</div></section>
</main>
</body>
</html>
"""
