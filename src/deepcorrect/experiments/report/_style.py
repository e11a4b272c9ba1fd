"""The page's style sheet."""

STYLE = """
:root { --ink: #1c2024; --muted: #5b6570; --rule: #d9dee3; --soft: #f5f7f9; --accent: #0072b2;
  --right: #0a7040; --wrong: #b3261e;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  --mono: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: #fff; color: var(--ink); font: 16px/1.55 var(--sans); }
main { max-width: 1120px; margin: 0 auto; padding: 28px 24px 64px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .2em; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.6em 0 .3em; padding-top: .9em;
  border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 1.6em 0 .4em; }
p { margin: .4em 0 1em; max-width: 46rem; }
.facts { color: var(--muted); margin: 0 0 1.2em; overflow-wrap: anywhere; max-width: none; }
.facts b { color: var(--ink); font-weight: 600; }
.headline { font-size: 1.14rem; line-height: 1.5; max-width: 52rem; margin: 0 0 1.2em;
  padding: .1em 0 .1em 1em; border-left: 4px solid var(--accent); }
.headline p { max-width: none; margin: 0 0 .4em; }
.headline p + p { font-size: 1rem; }
nav { display: flex; flex-wrap: wrap; gap: .2em 1.2em; font-size: .9rem; }
a { color: var(--accent); }
.note { color: var(--muted); font-size: .9rem; }
.key { display: flex; flex-wrap: wrap; gap: .2em 1.3em; list-style: none; margin: .4em 0 .8em;
  padding: 0; font-size: .9rem; }
.key li { display: flex; align-items: center; gap: .45em; }
.key svg { width: 36px; height: 14px; flex: none; }
.key i { width: 14px; height: 14px; flex: none; border-radius: 2px; }
.key img { width: 120px; height: 12px; }
.charts { display: grid; gap: 20px 28px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); }
.small { gap: 14px 18px; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); }
.four { grid-template-columns: repeat(auto-fill, minmax(min(100%, 230px), 1fr)); }
figure { margin: 0; min-width: 0; max-width: 560px; }
figcaption { font-weight: 600; font-size: .95rem; overflow-wrap: anywhere; }
.small figcaption { font-size: .82rem; line-height: 1.3; }
.small figcaption span { display: block; }
figcaption span { font-weight: 400; color: var(--muted); }
figure svg { display: block; width: 100%; height: auto; }
svg text { font-family: var(--sans) !important; }
.picture { max-width: none; }
.picture img { display: block; max-width: 100%; height: auto; }
.scroll { overflow-x: auto; margin: .4em 0 1.2em; -webkit-overflow-scrolling: touch; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
h3 span { font-weight: 400; color: var(--muted); }
th, td { padding: .38em .8em; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--rule); }
thead th { color: var(--muted); font-weight: 600; vertical-align: bottom; white-space: normal; }
th:first-child { text-align: left; position: sticky; left: 0; background: #fff; padding-left: 0; }
tbody th { font-weight: 600; }
.best { font-weight: 700; }
.text td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.strips { width: 100%; border-collapse: collapse; }
.strips th { width: 1%; font: 400 .8rem/1.2 var(--mono); }
.strips th, .strips td { border: 0; padding: 2px 0 2px 10px; }
.strips td:nth-child(2) { width: 90%; }
.strips img { display: block; width: 100%; min-width: 150px; height: 16px;
  image-rendering: pixelated; outline: 1px solid var(--rule); }
.examples tbody { border-bottom: 2px solid var(--rule); }
.examples th, .examples td { border: 0; padding: .1em .5em; text-align: center; }
.examples th:first-child { text-align: left; padding-left: 0; padding-right: 1em; }
.examples tbody th { font-weight: 400; white-space: normal; overflow-wrap: break-word;
  min-width: 124px; max-width: 160px; }
.examples tbody tr:first-child > * { padding-top: .8em; }
.examples tbody tr:last-child > * { padding-bottom: .8em; }
.examples img { display: block; width: 84px; height: 84px; object-fit: contain; margin: 0 auto; }
.examples .pixels { image-rendering: pixelated; }
.examples .answer { display: block; max-width: 92px; margin: 0 auto; overflow: hidden;
  text-overflow: ellipsis; }
.right { color: var(--right); }
.wrong { color: var(--wrong); }
details { margin: .8em 0; }
summary { cursor: pointer; font-weight: 600; }
pre { background: var(--soft); padding: 1em; overflow-x: auto; font: .82rem/1.5 var(--mono);
  border-radius: 6px; }
footer { margin-top: 3em; color: var(--muted); font-size: .85rem; }
@media (max-width: 600px) {
  main { padding: 18px 16px 48px; }
  h1 { font-size: 1.5rem; }
  .headline { font-size: 1.04rem; }
  .examples tbody th { max-width: 124px; }
  .small { gap: 12px 10px;
    grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); }
}
@media print { nav { display: none; } .scroll { overflow: visible; } }
"""
