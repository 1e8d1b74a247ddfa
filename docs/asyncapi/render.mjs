// Checks the documents with AsyncAPI's own parser, and makes a page of each: html/*.html, to be opened from the disk.
// Exit status 1 if the parser has anything to say that is more than a hint.
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { DiagnosticSeverity, Parser } from "@asyncapi/parser";

const here = dirname(fileURLToPath(import.meta.url));
const pages = { socketio: "Clients (Socket.IO)", nats: "The bus (NATS)" };
const parts = "node_modules/@asyncapi/react-component";
const config = {
  show: { sidebar: true, errors: true },
  expand: { messageExamples: true },
  sidebar: { showOperations: "byDefault", useChannelAddressAsIdentifier: true },
};

const parser = new Parser();
for (const name of Object.keys(pages)) {
  const { diagnostics } = await parser.parse(readFileSync(join(here, `${name}.json`), "utf8"));
  const wrong = diagnostics.filter((found) => found.severity <= DiagnosticSeverity.Warning);
  for (const found of wrong) console.error(`${name}.json: ${found.path.join(".")}: ${found.message}`);
  if (wrong.length > 0) process.exitCode = 1;
}

mkdirSync(join(here, "html"), { recursive: true });
copyFileSync(join(here, parts, "browser/standalone/index.js"), join(here, "html/asyncapi.js"));
copyFileSync(join(here, parts, "styles/default.min.css"), join(here, "html/asyncapi.css"));
for (const [name, title] of Object.entries(pages)) {
  const document = readFileSync(join(here, `${name}.json`), "utf8").replaceAll("<", "\\u003c");
  const others = Object.keys(pages).map((other) => `<a href="${other}.html">${pages[other]}</a>`);
  writeFileSync(
    join(here, `html/${name}.html`),
    `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>${title}</title>
<link rel="stylesheet" href="asyncapi.css">
<style>body { margin: 0 } nav { font: 14px sans-serif; padding: 8px 16px; background: #f3f4f6 } nav a { margin-right: 16px } code::before, code::after { content: none !important }</style>
<nav>${others.join(" ")}</nav>
<div id="page"></div>
<script src="asyncapi.js"></script>
<script>AsyncApiStandalone.render({ schema: ${document}, config: ${JSON.stringify(config)} }, document.getElementById("page"))</script>
</html>
`,
  );
}
