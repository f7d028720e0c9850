"""How a page of ours looks on a screen, light or dark, narrow or wide, and on paper."""

CSS = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1a1a1a; --soft: #5c5c5c;
  --rule: #d9d9d9; --panel: #f6f6f4; --link: #00558a; --alarm: #a32a00; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16181b; --ink: #e7e7e4; --soft: #a9aaa8; --rule: #3a3d41; --panel: #1f2226;
    --link: #7cc0f0; --alarm: #ff9b73; --c000000: #e7e7e4; --c6b6b6b: #a9aaa8; --ce4e4e4: #33363a;
    --c0072b2: #58aee6; --cd55e00: #f08a4b; --c009e73: #35c79b; --ccc79a7: #dc94bd;
    --c7a6bb7: #ac9fe6; --c8b4513: #c98a5c; --cffffff: #16181b; } }
@media print {
  :root { color-scheme: light; --paper: #ffffff; --ink: #000000; --soft: #444444; --rule: #bbbbbb;
    --panel: #ffffff; --link: #000000; --alarm: #a32a00; --c000000: #000000; --c6b6b6b: #6b6b6b;
    --ce4e4e4: #e4e4e4; --c0072b2: #0072b2; --cd55e00: #d55e00; --c009e73: #009e73;
    --ccc79a7: #cc79a7; --c7a6bb7: #7a6bb7; --c8b4513: #8b4513; --cffffff: #ffffff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1.25rem 4rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
  overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .7rem; padding-bottom: .25rem;
  border-bottom: 1px solid var(--rule); }
p, ul, dl { max-width: 50rem; margin: .5rem 0; }
ul { padding-left: 1.2rem; }
a { color: var(--link); }
.soft, figcaption, .notes { color: var(--soft); font-size: .875rem; }
.alarm { border-left: .3rem solid var(--alarm); padding: .5rem .9rem; background: var(--panel);
  color: var(--alarm); font-weight: 600; max-width: 50rem; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .15rem 1.2rem; }
dt { color: var(--soft); }
dd { margin: 0; }
.charts { display: grid; gap: 1.6rem 1.8rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
figure { margin: 0; min-width: 0; }
figure h3 { font-size: 1rem; margin: 0 0 .3rem; }
figure svg { display: block; width: 100%; height: auto; }
figure svg text { fill: var(--ink); }
figcaption p { margin: .3rem 0; }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; overflow-wrap: normal;
  border-bottom: 1px solid var(--rule); }
td.number { white-space: nowrap; }
th { color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--rule); }
th.text, td.text { text-align: left; }
details { margin: .6rem 0; }
summary { cursor: pointer; }
pre { overflow-x: auto; background: var(--panel); padding: .8rem; font-size: .8rem; }
footer { margin-top: 3rem; }
@media print {
  @page { margin: 15mm; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  figure, tr, dl, .alarm { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .charts { grid-template-columns: 1fr 1fr; }
  .scroll, pre { overflow: visible; }
  table { font-size: 7.5pt; }
  th, td, td.number { padding: .15rem .35rem; white-space: normal; }
  pre { white-space: pre-wrap; }
  details:not([open]), nav { display: none; }
}
"""
"""The style sheet. A colour #rrggbb of a figure is replaced where `--crrggbb` says so."""
