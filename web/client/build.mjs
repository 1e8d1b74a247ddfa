// Builds what is packed: an ES module and a CommonJS one, each with its types.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { cp, mkdir, readdir, rm, writeFile } from "node:fs/promises";
import { build } from "esbuild";

const common = {
  entryPoints: ["src/index.ts"], bundle: true, platform: "browser", target: "es2022", external: ["socket.io-client"],
  sourcemap: true, logLevel: "warning",
};

const types = spawnSync("node_modules/.bin/tsc", ["-p", "tsconfig.build.json"], { stdio: "inherit" });
if (types.status !== 0) {
  process.exit(1);
}
await build({ ...common, format: "esm", outfile: "dist/index.js" });
await build({ ...common, format: "cjs", outfile: "dist/cjs/index.js" });
// The same declarations, read as CommonJS because of the package.json beside them.
await mkdir("dist/cjs", { recursive: true });
for (const name of (await readdir("dist")).filter((one) => one.endsWith(".d.ts"))) {
  if (existsSync(`src/${name.replace(".d.ts", ".ts")}`)) {
    await cp(`dist/${name}`, `dist/cjs/${name}`);
  } else {
    await Promise.all(["dist", "dist/cjs"].map((folder) => rm(`${folder}/${name}`, { force: true }))); // of a module that is gone
  }
}
await writeFile("dist/cjs/package.json", '{ "type": "commonjs" }\n');
