"""The style sheet of the documentation's pages, in light and dark."""

STYLE = """\
:root { color-scheme: light dark;
  --ink: #1c2024; --soft: #60646c; --paper: #fff; --back: #f4f5f7; --rim: #e0e2e7;
  --link: #2f5bd0; --keyword: #a0319b; --string: #1d7a46; --number: #a9561a; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #edeef0; --soft: #a3a8b0; --paper: #16181b; --back: #0f1113; --rim: #2b2f34;
  --link: #8fb0ff; --keyword: #d9a2e8; --string: #8fd6a8; --number: #e8b48a; } }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: var(--paper); font: 16px/1.6 system-ui, sans-serif;
  display: grid; grid-template-columns: 250px minmax(0, 1fr); }
nav { position: sticky; top: 0; height: 100vh; overflow: auto; padding: 24px 20px;
  background: var(--back); border-right: 1px solid var(--rim); font-size: 14px; }
nav h4 { margin: 20px 0 4px; color: var(--soft); font-size: 12px; letter-spacing: .06em;
  text-transform: uppercase; }
nav ul { margin: 0; padding: 0; list-style: none; }
nav li a { display: block; padding: 3px 8px; border-radius: 6px; color: var(--ink); }
nav li a.here { background: var(--rim); font-weight: 600; }
.brand { font-size: 18px; font-weight: 700; color: var(--ink); }
main { max-width: 900px; padding: 32px 40px 96px; }
a { color: var(--link); text-decoration: none; }
a:hover { text-decoration: underline; }
h1 { margin: 0 0 20px; font-size: 30px; line-height: 1.2; }
h1 small { margin-left: 8px; color: var(--soft); font-size: 15px; font-weight: 400; }
h2 { margin: 40px 0 12px; font-size: 21px; }
h3 { margin: 28px 0 8px; font-size: 17px; }
code, pre { font: 13.5px/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono',
  monospace; }
:not(pre) > code { padding: 1px 4px; border-radius: 4px; background: var(--back); }
pre { margin: 12px 0; padding: 12px 16px; overflow-x: auto; border: 1px solid var(--rim);
  border-radius: 8px; background: var(--back); }
pre i { font-style: normal; }
.keyword { color: var(--keyword); }
.string { color: var(--string); }
.number { color: var(--number); }
.comment, .prompt { color: var(--soft); }
.result { color: var(--soft); }
.signature { border-left: 3px solid var(--link); white-space: pre-wrap; }
img, svg { max-width: 100%; }
.wide { overflow-x: auto; }
table { margin: 12px 0; border-collapse: collapse; font-size: 14.5px; }
th, td { padding: 6px 12px 6px 0; border-bottom: 1px solid var(--rim); text-align: left;
  vertical-align: top; }
.facts { font-size: 13.5px; color: var(--soft); }
.facts th { padding-right: 20px; font-weight: 400; white-space: nowrap; }
.index td:first-child { padding-right: 24px; white-space: nowrap; }
.names { line-height: 2; }
.soft { color: var(--soft); }
section { margin-top: 48px; padding-top: 4px; border-top: 1px solid var(--rim); }
section h2 { margin-top: 20px; font-family: ui-monospace, SFMono-Regular, Menlo, monospace; }
section h2 span { color: var(--soft); font-weight: 400; }
.method { margin: 16px 0 16px 24px; }
.method pre { margin-bottom: 4px; padding: 6px 12px; white-space: pre-wrap; }
@media (max-width: 760px) { body { display: flex; flex-direction: column; }
  nav { order: 2; position: static; height: auto; } main { padding: 24px 16px 64px; } }
"""
