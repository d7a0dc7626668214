"""The look of a report: a column of prose, tables with aligned figures, light or dark as the reader's system asks."""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1b1f24; --soft: #5b6470; --rule: #d9dde2; --wash: #f5f6f8;
  --good: #0b6b4f; --bad: #a4262c; --link: #00548f;
  --prose: Charter, "Bitstream Charter", "Sitka Text", Cambria, Georgia, serif;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
  --mono: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181c; --ink: #e6e8eb; --soft: #9aa3ad; --rule: #343a41; --wash: #1d2126;
    --good: #4fd1a5; --bad: #ff8a85; --link: #7cc0f2;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 17px/1.55 var(--prose); }
main { max-width: 1180px; margin: 0 auto; padding: 48px 32px 96px; }
h1, h2, h3 { line-height: 1.2; font-weight: 600; text-wrap: balance; }
h1 { font-size: 34px; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 25px; margin: 64px 0 14px; padding-top: 18px; border-top: 2px solid var(--ink); }
h3 { font-size: 19px; margin: 44px 0 10px; }
p, ul, ol { max-width: 72ch; margin: 0 0 14px; }
a { color: var(--link); }
code, .recipe { font-family: var(--mono); font-size: 0.84em; overflow-wrap: anywhere; }
.soft { color: var(--soft); }
.lede { font-size: 16px; color: var(--soft); }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: 3px 20px; margin: 18px 0 0; }
dl.facts { font: 14px/1.5 var(--sans); }
dl.facts dt { color: var(--soft); }
dl.facts dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
ul.verdicts { list-style: none; padding: 0; max-width: 84ch; }
ul.verdicts li { padding: 9px 0 9px 16px; border-left: 3px solid var(--rule); margin-bottom: 8px; }
ul.verdicts li.faster { border-color: var(--good); }
ul.verdicts li.slower, ul.verdicts li.invalid { border-color: var(--bad); }
.scroll { overflow-x: auto; margin: 8px 0 14px; }
table { border-collapse: collapse; font: 13px/1.4 var(--sans); font-variant-numeric: tabular-nums lining-nums; }
p.key { color: var(--soft); font: 13px/1.45 var(--sans); max-width: 100ch; }
tr.reason span { position: sticky; left: 0; display: inline-block; max-width: min(100%, 88vw); }
th, td { padding: 7px 0 7px 16px; text-align: right; vertical-align: top; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal; min-width: 15ch; }
table.judged th:nth-child(2), table.judged td:nth-child(2) { text-align: left; }
table.results th { text-wrap: balance; }
table.results thead th { white-space: normal; }
thead th { color: var(--soft); font-weight: 500; vertical-align: bottom; border-bottom: 1.5px solid var(--ink); }
tbody th { font-weight: 400; }
tbody tr { border-bottom: 1px solid var(--rule); }
tbody tr.invalid { border-bottom: 0; }
th small, td small { display: block; color: var(--soft); font-size: 11px; }
td small.wrap { white-space: normal; max-width: 24ch; }
tr.invalid s { color: var(--soft); }
tr.reason td { padding: 0 0 7px; color: var(--bad); white-space: normal; text-align: left; }
.faster strong { color: var(--good); }
.slower strong, .invalid strong { color: var(--bad); }
table.plain th, table.plain td { text-align: left; white-space: normal; padding-left: 0; padding-right: 24px; }
table.plain th { color: var(--soft); font-weight: 400; white-space: nowrap; }
figure { margin: 8px 0 34px; max-width: 900px; }
figure .scroll { margin: 0; }
figure img { display: block; width: 100%; min-width: 620px; height: auto; }
figcaption { font-size: 15.5px; max-width: 80ch; margin: 4px 0 8px; }
details { margin: 0 0 10px; }
summary { cursor: pointer; font: 14px/1.6 var(--sans); color: var(--link); }
details.lesson { border-bottom: 1px solid var(--rule); padding-bottom: 8px; }
details.lesson summary { color: var(--ink); }
details.lesson p { white-space: pre-line; margin-top: 10px; }
@media (max-width: 700px) {
  body { font-size: 16px; }
  main { padding: 24px 18px 64px; }
  h1 { font-size: 27px; }
  h2 { font-size: 22px; margin-top: 48px; }
  dl.facts { grid-template-columns: 1fr; gap: 0; }
  dl.facts dd { margin-bottom: 8px; }
}
@media print {
  main { max-width: none; padding: 0; }
  details::details-content { content-visibility: visible; }
  figure, tr { break-inside: avoid; }
}
"""
