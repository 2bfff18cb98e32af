"""The style of the report's pages: light, dark and print; no colour alone carries a meaning."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --back: #f5f7fa; --paper: #fff; --ink: #1f2933; --soft: #52606d;
  --line: #dfe4ea; --band: #e9edf2; --better: #0b7285; --worse: #c92a2a; --undecided: #5f6b76;
  --pass-back: #e6f6f4; --stop-back: #fdecec; --same-back: #eef1f4 }
@media (prefers-color-scheme: dark) { :root { --back: #14181d; --paper: #1d232a; --ink: #e6eaee;
  --soft: #a8b3be; --line: #353e48; --band: #2a323b; --better: #3bc9db; --worse: #ff8f8f;
  --undecided: #b4bec8; --pass-back: #12322f; --stop-back: #3d1f21; --same-back: #29313a } }
* { box-sizing: border-box }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
main { max-width: 1040px; margin: 0 auto; padding: 28px 20px 64px }
header p { color: var(--soft); margin: 0 }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -.01em }
h2 { font-size: 18px; margin: 0 0 4px } h3 { font-size: 15px; margin: 18px 0 4px }
a { color: var(--better) }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  padding: 18px 22px; margin-top: 18px }
.note { color: var(--soft); font-size: 13.5px; margin: 0 0 12px; max-width: 78ch }
.later:empty::after { content: "Written when the release is judged."; color: var(--soft) }
.banner { border-radius: 8px; padding: 12px 16px; margin: 8px 0 4px; border-left: 6px solid }
.banner p { margin: 0 } .banner ul { margin: 8px 0 0; padding-left: 20px } .banner li { margin: 4px 0 }
.banner .big { font-size: 21px; font-weight: 650 }
.banner.pass { background: var(--pass-back); border-color: var(--better) }
.banner.stop { background: var(--stop-back); border-color: var(--worse) }
.banner.same { background: var(--same-back); border-color: var(--undecided) }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 12px;
  margin-top: 18px }
.card { background: var(--paper); border: 1px solid var(--line); border-left: 5px solid currentColor;
  border-radius: 10px; padding: 12px 14px }
.card p { margin: 0; color: var(--ink) } .card .name { font-weight: 600; overflow-wrap: anywhere }
.card .value { font-size: 23px; font-weight: 650; letter-spacing: -.02em }
.card .unit { font-size: 13px; font-weight: 400; color: var(--soft); letter-spacing: 0 }
.card .against { font-size: 13px; color: inherit }
.better, .passed .sign { color: var(--better) } .worse, .failed .sign { color: var(--worse) }
.undecided, .undecided .sign { color: var(--undecided) }
tr.undecided, tr.undecided th { color: var(--ink) }
.scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: 7px 9px; border-bottom: 1px solid var(--line); vertical-align: top }
thead th { color: var(--soft); font-weight: 600; font-size: 12.5px; vertical-align: bottom }
tbody th, tfoot th { font-weight: 400 } tfoot td, tfoot th { font-weight: 600 }
thead small { display: block; font-weight: 400 }
th:first-child, td:first-child, th.text, td.text { text-align: left }
td small, th small { display: block; color: var(--soft); font-size: 12px }
caption { text-align: left; font-weight: 600; padding: 10px 0 4px }
.gates td, .gates th { text-align: left } .gates .why { max-width: 34ch }
.gates .sign, .forest td > b, .gates td[data-label="Found"] small { white-space: nowrap }
.forest td.plot { padding: 0 6px; vertical-align: middle; width: 36% }
.forest th, .forest td { vertical-align: middle }
.flips th:last-child { text-align: left } .flips td { white-space: nowrap } td details { margin: 0 }
.flips td:last-child { white-space: normal }
svg { display: block; max-width: 100% }
svg text { fill: var(--soft); font: 10px system-ui, "DejaVu Sans", sans-serif }
svg.interval { width: 100%; height: auto; color: var(--undecided) }
svg.interval.better { color: var(--better) } svg.interval.worse { color: var(--worse) }
.band { fill: var(--band) } .zero { stroke: var(--soft); stroke-width: 1; fill: none }
.span { stroke: currentColor; stroke-width: 3; fill: none } .mark { fill: currentColor }
.open, .dot { fill: var(--paper); stroke: currentColor; stroke-width: 2.5 }
svg.mini { width: 150px; color: var(--undecided) } .limit { stroke: var(--ink); stroke-width: 2;
  stroke-dasharray: 3 2; fill: none }
.passed svg.mini { color: var(--better) } .failed svg.mini { color: var(--worse) }
svg.scatter { width: 100%; max-width: 360px; height: auto }
.beside { display: flex; flex-wrap: wrap; gap: 8px 28px; align-items: center }
.beside svg { flex: 1 1 280px } .beside ol { flex: 2 1 280px; margin: 0; padding-left: 24px }
svg.scatter path.cross { stroke: currentColor; stroke-width: 2; fill: none }
.ends { display: flex; justify-content: space-between; font-weight: 400; color: var(--soft) }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 14px }
.curves figure { margin: 0 } .curves figcaption { font-weight: 600; font-size: 13.5px }
svg.curve { width: 100%; height: auto } .grid { stroke: var(--line); fill: none }
.thin { stroke: var(--better); opacity: .35; fill: none }
.mean { stroke: var(--better); stroke-width: 2; fill: none }
svg.mixture { width: 100%; max-width: 760px; height: auto; border-radius: 4px }
svg.mixture rect { stroke: var(--paper); stroke-width: 1 }
rect.new { fill: var(--better) } rect.replay { fill: var(--better); opacity: .4 }
rect.other { fill: var(--undecided); opacity: .55 }
.legend { color: var(--soft); font-size: 13px; margin: 2px 0 0 }
.legend span { display: inline-block; width: 12px; height: 12px; margin-left: 12px; border-radius: 3px }
.legend span:first-child { margin-left: 0 } .legend .new, .legend .replay { background: var(--better) }
.legend .replay { opacity: .4 } .legend .other { background: var(--undecided); opacity: .55 }
.keys p { margin: 6px 0 0; overflow-wrap: anywhere }
tr:target { background: var(--same-back) }
code { font: 12.5px ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 4px 18px; margin: 0; font-size: 13.5px }
dt { color: var(--soft) } dd { margin: 0; overflow-wrap: anywhere }
details { margin-top: 12px } summary { cursor: pointer; color: var(--soft); font-size: 13.5px }
pre { background: var(--back); border-radius: 6px; padding: 12px; overflow-x: auto; font-size: 12px;
  white-space: pre-wrap; overflow-wrap: anywhere }
.item { border-top: 1px solid var(--line); padding: 10px 0 } .item dl { margin-top: 4px }
.item dd { white-space: pre-wrap }
.warning { border: 1px solid var(--worse); border-radius: 8px; padding: 8px 14px; margin-top: 14px }
@media (max-width: 640px) {
  [data-label]::before { content: attr(data-label) ": "; color: var(--soft) }
  [data-label]:empty::before { content: "" }
  main { padding: 18px 10px 40px } section { padding: 14px 12px } h1 { font-size: 22px }
  th, td { padding: 6px 5px } dl { grid-template-columns: 1fr; gap: 0 } dd { margin-bottom: 6px }
  .forest, .forest tbody, .forest tr, .forest td, .forest tbody th { display: block; width: auto }
  .forest thead { display: none } .forest td, .forest tbody th { text-align: left; border: 0; padding: 1px 0 }
  .forest td.plot { width: 100%; padding: 2px 0 }
  .forest tr { border-bottom: 1px solid var(--line); padding: 8px 0 }
  .gates, .gates tbody, .gates tr, .gates td, .gates tbody th { display: block; width: auto }
  .gates thead { display: none } .gates td, .gates tbody th { border: 0; padding: 1px 0 }
  .gates tr { border-bottom: 1px solid var(--line); padding: 8px 0 }
}
@media print { :root { --back: #fff } body { font-size: 11pt } main { max-width: none; padding: 0 }
  section { break-inside: avoid; border-color: #999 } details > pre { display: none }
  a { color: inherit; text-decoration: none } .scroll { overflow: visible } }
"""
