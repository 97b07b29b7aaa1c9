"""The comparison page's own styles and template; the base style sheet is the run report's."""

STYLE = """
.final { font-size: 14.5px; } .final td, .final th { padding-left: 8px; padding-right: 8px; }
.final th.name, .final td.name { text-align: left; padding-left: 0; position: sticky; left: 0; z-index: 1;
  background: var(--paper); white-space: normal; min-width: 9em; max-width: 16em; }
.final td.best { font-weight: 700; color: var(--good); }
.final td.near { color: var(--good); }
.final tr.ceiling td { color: var(--soft); }
.final tr.cut td { border-bottom: 1px solid var(--soft); }
.swatch { display: inline-block; width: 24px; height: 8px; margin-right: 7px; vertical-align: 1px; flex: none; }
.picks { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 0 0 18px; font-size: 14px; }
.picks label { cursor: pointer; white-space: nowrap; }
.axis-switch > input { position: absolute; opacity: 0; }
.axis-switch > label { display: inline-block; padding: 4px 14px; border: 1px solid var(--rule); font-size: 14px;
  cursor: pointer; margin: 0 -1px 12px 0; background: var(--card); }
.axis-switch > label:first-of-type { border-radius: 6px 0 0 6px; }
.axis-switch > label:last-of-type { border-radius: 0 6px 6px 0; }
.axis-switch > input:checked + label { background: var(--accent); color: var(--paper); border-color: var(--accent); }
.axis-switch > input:focus-visible + label { outline: 2px solid var(--accent); outline-offset: 2px; }
.axis-switch .against { font-size: 14px; color: var(--soft); margin-right: 10px; }
.axis-switch .panel { display: none; }
.axis-switch #by-0:checked ~ .by-0, .axis-switch #by-1:checked ~ .by-1, .axis-switch #by-2:checked ~ .by-2 {
  display: block; }
.none-word { color: var(--soft); font-size: 13px; }
.samples { border-collapse: separate; border-spacing: 3px; --tile: 90px; }
.samples td.name, .samples th.name { min-width: 132px; max-width: 132px; padding-right: 8px; position: sticky;
  left: 0; background: var(--paper); font-size: 13px; line-height: 1.3; text-align: left; overflow-wrap: break-word;
  z-index: 1; }
.samples th { min-width: var(--tile); max-width: var(--tile); font-weight: 400; font-size: 12px; line-height: 1.25;
  color: var(--soft); text-align: left; vertical-align: bottom; padding: 0 0 4px; }
.samples img, .samples .none { display: block; width: var(--tile); height: var(--tile); object-fit: contain;
  border-radius: 3px; background: var(--faint); }
.samples .none { display: grid; }
.settings { border-collapse: collapse; width: 100%; font-size: 14px; }
.settings td, .settings th { text-align: left; vertical-align: top; padding: 6px 12px 6px 0; font-weight: 400;
  border-bottom: 1px solid var(--rule); }
.settings th { color: var(--soft); font-size: 13px; }
.settings a { color: var(--accent); }
.settings code { font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere; }
.state-failed { color: var(--bad); } .state-running, .state-waiting, .state-stopped { color: var(--soft); }
h1 + .lead { margin: -10px 0 22px; color: var(--soft); max-width: 60em; }
@media (max-width: 860px) {
  .final th.name, .final td.name { min-width: 6.5em; max-width: 8em; font-size: 14px; }
  .final th, .final td { padding-left: 7px; padding-right: 7px; }
  .samples { --tile: 76px; }
  .samples td.name, .samples th.name { min-width: 84px; max-width: 84px; font-size: 12px; }
  .samples th { font-size: 11px; }
  .axis-switch > label { padding: 4px 9px; font-size: 13px; }
}
"""

PAGE = """{% macro swatch(css) %}
<svg class="swatch" viewBox="0 0 24 8" aria-hidden="true"><path class="line {{ css }}" d="M0 4L24 4"/></svg>
{% endmacro %}
{% macro tiles(block) %}
<div class="scroll"><table class="samples">
<tr><th class="name"></th>{% for prompt in block.prompts %}<th>{{ prompt }}</th>{% endfor %}</tr>
{% for name, css, uris in block.rows %}
<tr><td class="name">{% if css %}{{ swatch(css) }}{% endif %}{{ name }}</td>
{% for uri in uris %}<td>{% if uri %}<img src="{{ uri }}" alt="{{ name }}: {{ block.prompts[loop.index0] }}">
{% else %}<div class="none">no picture</div>{% endif %}</td>
{% endfor %}</tr>
{% endfor %}
</table></div>
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
{% if unfinished %}<p class="banner">{{ unfinished }}</p>{% endif %}
<h1>{{ headline }}</h1>
{% if note %}<p class="lead">{{ note }}</p>{% endif %}
<dl class="facts">{% for name, value in facts %}
<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>{% endfor %}</dl>

{% if tables %}
<section id="table"><header><h2>Figures</h2>
{% for line in legend %}<p>{{ line }}</p>{% endfor %}</header>
<div>
{% for part in tables %}
<div class="scroll"><table class="final">
<tr><th class="name">{{ part.title }}</th>{% for name in part.head %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in part.rows %}
<tr class="{{ row.css }}"><td class="name">{% if row.look %}{{ swatch(row.look) }}{% endif %}{{ row.name }}
{% if row.said %}<div class="none-word">{{ row.said }}</div>{% endif %}</td>
{% for text, css in row.cells %}<td{% if css %} class="{{ css }}"{% endif %}>{{ text }}</td>{% endfor %}</tr>
{% endfor %}
</table></div>
{% if not loop.last %}<p class="note"></p>{% endif %}
{% endfor %}
</div></section>
{% endif %}

<section id="curves"><header><h2>Curves</h2>
<p>{{ 'Means over the seeds, shaded from the lowest to the highest.' if seeds > 1 else 'One seed.' }}
Running figures are those of the averaged generator
{{- ' on ' ~ running ~ ' pictures of held-out prompts' if running }}.</p>
<p>Seconds include previews and saving, not the last measuring
{{- '; up to ' ~ at_once ~ ' runs shared the machine' if at_once > 1 }}.</p>
</header><div>
{% if panels %}
<div class="picks">{% for v in variants %}
<label><input type="checkbox" id="{{ v.id }}" checked> {{ swatch(v.look) }}{{ v.title }}</label>{% endfor %}</div>
<div class="axis-switch"><span class="against">against</span>
{% for panel in panels %}
<input type="radio" name="axis" id="by-{{ loop.index0 }}"{{ ' checked' if loop.first }}>
<label for="by-{{ loop.index0 }}">{{ panel.title }}</label>
{% endfor %}
{% for panel in panels %}
<div class="panel by-{{ loop.index0 }}"><div class="charts">
{% for name, svg in panel.charts %}
<figure class="chart"><h3>{{ name }}</h3>{{ svg | safe }}</figure>
{% endfor %}
</div></div>
{% endfor %}
</div>
{% else %}<p class="note">There are no logged figures yet.</p>{% endif %}
</div></section>

{% if samples %}
<section id="samples"><header><h2>The same prompts</h2>
<p>The averaged generator at the end of its training, seed {{ first_seed }}: same prompts and start noise in every
row.</p></header><div>
{{ tiles(samples[0]) }}
{% if samples | length > 1 %}<details><summary>More prompts</summary>
{% for block in samples[1:] %}{{ tiles(block) }}{% endfor %}</details>{% endif %}
</div></section>
{% endif %}

<section id="settings"><header><h2>Variants</h2>
<p>All share the task's preset{{ ', the common overrides below' if common }} and the seeds.</p></header><div>
{% if common %}<p class="note">For all variants</p><pre>{{ common | join('\\n') }}</pre>{% endif %}
<div class="scroll"><table class="settings">
<tr><th>variant</th><th>overrides</th><th>runs</th></tr>
{% for v in variants %}
<tr><td>{{ v.name }}{% if v.note %}<div class="none-word">{{ v.note }}</div>{% endif %}</td>
<td>{% for word in v.overrides %}<code>{{ word }}</code><br>{% else %}
<span class="none-word">none</span>{% endfor %}</td>
<td>{% for run in v.runs %}<div class="state-{{ run.state }}">
{% if run.link %}<a href="{{ run.link }}">seed {{ run.seed }}</a>{% else %}seed {{ run.seed }}{% endif %}
{{ run.state if run.state != 'done' }}{{ ': ' ~ run.error if run.error }}</div>{% endfor %}</td></tr>
{% endfor %}
</table></div>
{% if command %}<p class="note" style="margin-top:20px">The command</p><pre>{{ command }}</pre>{% endif %}
</div></section>
</main>
</body>
</html>
"""
