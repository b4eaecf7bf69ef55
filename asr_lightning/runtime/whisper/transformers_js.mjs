// Reads clips with a folder that `export --to transformers.js` wrote: `node transformers_js.mjs`.
// Takes one JSON object a line: first { package, folder, dtype, threads }, then for each clip { file, length, options }.
// The file holds float32 samples at 16 kHz. Answers one line each.
//
// An app does as read() does: the length of the extractor's window is what the encoder gets, and what makes it fast.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const next = async () => {
  const { value, done } = await lines.next();
  return done ? undefined : JSON.parse(value);
};
const answer = (object) => process.stdout.write(JSON.stringify(object) + "\n");

async function load({ package: path, folder, dtype, threads }) {
  const { pipeline, env } = await import(pathToFileURL(join(path, "dist", "transformers.node.mjs")));
  env.allowRemoteModels = false;
  env.localModelPath = "";
  return pipeline("automatic-speech-recognition", folder, {
    dtype,
    device: "cpu",
    local_files_only: true,
    session_options: { intraOpNumThreads: threads, interOpNumThreads: 1, logSeverityLevel: 3 },
  });
}

async function read(transcriber, { file, length, options }) {
  const bytes = readFileSync(file);
  const samples = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  const extractor = transcriber.processor.feature_extractor.config;
  extractor.n_samples = length;
  extractor.nb_max_frames = length / extractor.hop_length;
  return transcriber(samples, options);
}

try {
  const transcriber = await load(await next());
  answer({ ready: true });
  for (let clip = await next(); clip; clip = await next()) answer(await read(transcriber, clip));
} catch (error) {
  answer({ error: String(error?.stack ?? error) });
  process.exitCode = 1;
}
