/* Time that onnxruntime-web's wasm takes, on one thread, to open an ONNX export and to run one clip.

npm install --no-save --prefix outputs/ort onnxruntime-web@1.30.0
node benchmarks/onnx_wasm.mjs onnx/model.onnx... */

import { readFileSync } from "node:fs";

const library = "../outputs/ort/node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";
const { env, InferenceSession, Tensor } = await import(new URL(library, import.meta.url));
env.wasm.numThreads = 1;
const CLIPS = 10;

/* Milliseconds by the clock and of the processor, which other processes do not lengthen as much, and the result. */
async function timed(work) {
  const [start, before] = [performance.now(), process.cpuUsage()];
  const result = await work();
  const { user, system } = process.cpuUsage(before);
  return { result, clock: performance.now() - start, processor: (user + system) / 1000 };
}

const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];
const shown = (times) =>
  ["clock", "processor"].map((kind) => `${median(times.map((time) => time[kind])).toFixed(0)} ms`).join(", processor ");

for (const path of process.argv.slice(2)) {
  const bytes = readFileSync(path);
  const opened = await timed(() => InferenceSession.create(bytes, { executionProviders: ["wasm"] }));
  const session = opened.result;
  const [, ...shape] = session.inputMetadata[0].shape;
  const values = Float32Array.from({ length: shape[0] * shape[1] }, (_, index) => Math.sin(index));
  const feeds = { input_values: new Tensor("float32", values, [1, ...shape]) };
  // Meanwhile the engine replaces the code that it compiled quickly by faster code.
  for (let clip = 0; clip < CLIPS; clip++) await session.run(feeds);
  const runs = [];
  for (let clip = 0; clip < CLIPS; clip++) runs.push(await timed(() => session.run(feeds)));
  const logits = Array.from(runs[0].result.logits.data, (logit) => logit.toFixed(4));
  console.log(`${path}: opened in ${shown([opened])}; a clip ${shown(runs)}; logits ${logits.join(" ")}`);
}
