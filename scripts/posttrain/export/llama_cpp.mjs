// llama.cpp, as node-llama-cpp brings it, for posttrain/export/llama_cpp.py: requests and answers are lines of JSON.
//
//     POSTTRAIN_NODE_MODULES=FOLDER node llama_cpp.mjs MODEL.gguf THREADS

import {createRequire} from "node:module";
import {join} from "node:path";
import {createInterface} from "node:readline";
import {pathToFileURL} from "node:url";

const [file, threadsText] = process.argv.slice(2);
const threads = Number(threadsText);
const modules = createRequire(join(process.env.POSTTRAIN_NODE_MODULES, "_.js"));
const entry = pathToFileURL(modules.resolve("node-llama-cpp")).href;
const {getLlama, LlamaLogLevel} = await import(entry);
const logged = [];  // llama.cpp's own errors, the last of which says why it refuses a file
const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");

let llama, model, context, sequence;
try {
    const start = performance.now();
    llama = await getLlama({
        gpu: false, build: "never", progressLogs: false, maxThreads: threads, logLevel: LlamaLogLevel.error,
        logger: (level, message) => logged.push(message.trim())
    });
    model = await llama.loadModel({modelPath: file, gpuLayers: 0});
    say({
        version: llama.llamaCppRelease.release, seconds: (performance.now() - start) / 1000, longest: model.trainContextSize
    });
} catch (error) {
    say({error: [...logged, String(error.message ?? error)].join("; ")});
    process.exit(1);
}

// A context for texts of so many tokens.
async function roomy(tokens) {
    if (tokens > model.trainContextSize)
        throw new Error(`a text of ${tokens} tokens is longer than the model's context of ${model.trainContextSize}`);
    if (context == null || context.contextSize < tokens) {
        await context?.dispose();
        const size = Math.min(model.trainContextSize, Math.max(512, 2 ** Math.ceil(Math.log2(tokens))));
        context = await model.createContext({contextSize: size, batchSize: 512, threads: {ideal: threads, min: threads}});
        sequence = context.getSequence();
    }
}

async function fresh(tokens) {
    await roomy(tokens);
    await sequence.clearHistory();
}

const AT_ONCE = 8;  // places whose probabilities are held at a time: each is a number for every token

async function score(prompt, answer) {
    await fresh(prompt.length + answer.length);
    const logProbs = [], greedy = [];
    const ids = [...prompt, ...answer];
    let done = 0;
    while (logProbs.length < answer.length) {
        const first = prompt.length - 1 + logProbs.length;  // the place that says what comes next
        const last = Math.min(first + AT_ONCE, ids.length - 1);
        const wanted = (place) => place >= first
            ? [ids[place], {generateNext: {probabilities: true, options: {temperature: 0}}}]
            : ids[place];
        const places = Array.from({length: last - done}, (_, i) => done + i);
        const outputs = await sequence.controlledEvaluate(places.map(wanted));
        for (const place of places.filter((place) => place >= first)) {
            const probabilities = outputs[place - done].next.probabilities;
            greedy.push(probabilities.keys().next().value);
            logProbs.push(Math.log(Math.max(probabilities.get(ids[place + 1]) ?? 0, 1e-45)));
        }
        done = last;
    }
    return {log_probs: logProbs, greedy};
}

async function generate(prompt, limit, stop) {
    const most = Math.min(limit, Math.max(1, model.trainContextSize - prompt.length));  // an answer ends where the context does
    await fresh(prompt.length + most);
    const stops = new Set(stop), answer = [];
    if (most > 0)
        for await (const token of sequence.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
            answer.push(token);
            if (answer.length >= most || stops.has(token))
                break;
        }
    return answer;
}

// The next tokens of a text that grows: what the last call had as well is not computed again.
async function extend(ids, most, room, stop, temperature) {
    await roomy(room);
    await sequence.adaptStateToTokens(ids.slice(0, -1), false);
    const stops = new Set(stop), next = [];
    const options = {temperature, topK: 0, topP: 1, minP: 0, yieldEogToken: true};
    for await (const token of sequence.evaluate(ids.slice(sequence.nextTokenIndex), options)) {
        next.push(token);
        if (next.length >= most || stops.has(token))
            break;
    }
    return next;
}

// llama.cpp's own template engine, as llama-server has it; node-llama-cpp names it nowhere.
const templates = new Map();

function render(template, values) {
    if (!templates.has(template))
        templates.set(template, new llama._bindings.AddonJinjaRenderer(template));
    return templates.get(template).render(values);
}

const answers = {
    encode: ({text}) => model.tokenize(text, true),
    render: ({template, values}) => render(template, values),
    score: ({prompt, answer}) => score(prompt, answer),
    generate: ({prompt, most, stop}) => generate(prompt, most, stop),
    extend: ({ids, most, room, stop, temperature}) => extend(ids, most, room, stop, temperature),
    peak: () => 1024 * process.resourceUsage().maxRSS
};

for await (const line of createInterface({input: process.stdin})) {
    const {action, ...request} = JSON.parse(line);
    try {
        say({answer: await answers[action](request)});
    } catch (error) {
        say({error: [...logged.splice(0), String(error.message ?? error)].join("; ")});
    }
}
process.exit(0);
