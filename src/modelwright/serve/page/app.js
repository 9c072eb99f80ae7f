// Try the model: a picture, text, recording or table in, the answer out. No library, no storage.
"use strict";

const MOST_BARS = 10;
const MOST_CHARTS = 8;
const KIND_COLORS = 6;
const LINE = 14; // pixels from one label on a picture to the next below it
const LONG_LABEL = 16; // characters; longer ones stand above their bars
const MOST_TEXTS = 12; // samples of texts that are offered
const LINES = "application/x-ndjson"; // of an answer that comes in pieces
// by task: what stands over the text, and on the button below it
const WRITE = {
  "language-modeling": ["A text to go on with", "Go on"],
  translation: ["A text to translate", "Translate"],
  tagging: ["A text to tag", "Find the spans"],
  recommendation: ["Items that a user had, divided by commas, the oldest first", "Recommend"],
  "rating-prediction": ["Items with = and their ratings, divided by commas; the one asked for without", "Predict the rating"],
};
const SMALL_PIXELS = 64; // below this a picture is shown with its pixels, not blurred
const GOALS = {
  accuracy: "Accuracy", balanced_accuracy: "Balanced accuracy", balanced_accuracy_drop: "Balanced accuracy lost", f1_macro: "F1, mean of classes", f1_macro_drop: "F1, mean of classes, lost", ap: "AP", ap_drop: "AP lost", hr_at_10: "Hits among the first 10", hr_at_10_drop: "Hits among the first 10, lost", cer: "Character error rate", cer_drop: "Character error rate added", mae: "Mean absolute error", mae_drop: "Mean absolute error added", bits_per_byte: "Bits per byte", bits_per_byte_drop: "Bits per byte added", ap50: "AP50", ap50_drop: "AP50 lost", f1: "F1", wer: "Word error rate", wer_drop: "Word error rate added", recall_at_10: "Recall@10", recall_at_10_drop: "Recall@10 lost", ndcg_at_10: "NDCG@10", ndcg_at_10_drop: "NDCG@10 lost", bleu: "BLEU", bleu_drop: "BLEU lost", mse: "Mean squared error", rmse: "RMSE", rmse_drop: "RMSE added", mean_return: "Mean return", mean_return_drop: "Mean return lost", accuracy_drop: "Accuracy lost", f1_drop: "F1 lost",
  mse_drop: "Mean squared error added", latency_p50_ms: "Half of the answers within",
  latency_p95_ms: "95% of answers within", latency_p99_ms: "99% of answers within",
  size_mb: "File size",
};
// by what the model takes: several of it, the files to choose, words of the drop zone, what is sent
const MEDIA = {
  image: {
    one: "picture", many: "pictures", accept: "image/png,image/jpeg,image/webp,image/bmp,image/gif", invite: "Drop a picture here",
    hint: "PNG, JPEG, WebP, BMP or GIF. It goes to this server and is not kept.", type: "image/",
  },
  audio: {
    one: "recording", many: "recordings", accept: ".wav,.flac,audio/wav,audio/flac", invite: "Drop a recording here",
    hint: "WAV or FLAC. It goes to this server and is not kept.", type: "audio/",
  },
  series: {
    one: "table", many: "windows", accept: ".csv,.tsv,.txt,text/csv", invite: "Drop a table here",
    hint: "CSV with the columns {columns} and at least {rows} rows, the latest last. It is not kept.", type: "text/",
  },
  text: { one: "text", many: "texts", type: "text/" },
  observation: { one: "observation", many: "first observations", type: "text/", fields: true },
  image_text: {
    one: "picture", many: "pictures with texts", accept: "image/png,image/jpeg,image/webp,image/bmp,image/gif", invite: "Drop a picture here",
    hint: "PNG, JPEG, WebP, BMP or GIF. Texts to choose from stand below, one on each line. Nothing is kept.", type: "application/",
  },
};
const $ = (id) => document.getElementById(id);
let key = ""; // in memory alone: gone when the page closes
let turn = 0; // the newest question; answers to older ones are dropped
let model = null; // what the server told about it
let picture = null; // that texts are chosen for

// options.pieces: called with each piece of an answer that comes in pieces.
async function ask(address, { pieces, ...options } = {}) {
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let reply;
  try {
    reply = await fetch(address, { ...options, headers });
  } catch {
    throw new Error("The server cannot be reached. Is it still running?");
  }
  if (reply.ok && pieces && reply.headers.get("Content-Type").startsWith(LINES)) return follow(reply, pieces);
  const body = await reply.json().catch(() => ({}));
  if (reply.ok) return body;
  const error = new Error(plain(reply.status, body.error));
  error.status = reply.status;
  throw error;
}

async function follow(reply, pieces) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read().catch(() => ({ done: true }));
    if (done) throw new Error("The server went away before the text was finished.");
    const lines = (held + value).split("\n");
    held = lines.pop();
    for (const line of lines.map((one) => JSON.parse(one))) {
      if (line.error) throw new Error(`The text ends here: ${line.error}.`);
      if (line.piece === undefined) return line;
      if (!pieces(line.piece)) {
        reader.cancel();
        return line;
      }
    }
  }
}

function plain(status, text) {
  const medium = MEDIA[model?.takes] || { one: "file" };
  if (text && [400, 413].includes(status)) return `${text[0].toUpperCase()}${text.slice(1)}.`; // the server knows why
  if (status === 401) return "That key is not the right one.";
  if (status === 408) return "The upload took too long. Try again, or use a smaller file.";
  if (status === 413) return `This ${medium.one} is too large for the server. Use a smaller one.`;
  if (status === 503) return "The server is busy or stopping. Try again in a moment.";
  if (status === 504) return "The model took too long. Try again in a moment.";
  return `The server could not answer${text ? `: ${text}` : ""}.`;
}

async function start() {
  try {
    model = await ask("/page/model.json");
  } catch (error) {
    if (error.status === 401) {
      $("facts").textContent = key ? error.message : "";
      $("key").hidden = false;
      $("key-value").focus();
    } else {
      $("facts").textContent = error.message;
    }
    return;
  }
  $("key").hidden = true;
  show();
}

function show() {
  const medium = MEDIA[model.takes];
  document.title = `${model.name} – try the model`;
  $("name").textContent = model.name;
  $("facts").textContent = [
    model.task && model.task.replaceAll("-", " "),
    model.answers,
    model.num_params && `${model.num_params.toLocaleString("en")} parameters`,
    bytes(model.model_bytes),
    `version ${model.version}`,
  ].filter(Boolean).join("  ·  ");
  $("endpoint").textContent = `${location.origin}/v2/models/${model.name}/infer`;
  if (!medium) {
    $("facts").textContent += ". The page cannot ask this model; programs can, at the address below.";
  }
  $("try").hidden = !medium;
  $("drop").hidden = !medium?.accept;
  $("write").hidden = !["text", "image_text"].includes(model.takes);
  $("observe").hidden = !medium?.fields;
  [$("text-label").textContent, $("go").textContent] = WRITE[model.task] || ["A text for the model", "Ask the model"];
  $("how").hidden = $("max-new").disabled = $("temperature").disabled = !model.writes;
  if (model.writes) [$("max-new").value, $("temperature").value] = [model.writes.max_new, model.writes.temperature];
  if (medium?.fields) model.columns.forEach(addField);
  if (medium?.accept) {
    $("file").accept = medium.accept;
    $("invite-title").textContent = medium.invite;
    const columns = model.columns.slice(0, MOST_CHARTS).join(", ") + (model.columns.length > MOST_CHARTS ? ", …" : "");
    $("invite-hint").textContent = medium.hint.replace("{columns}", columns).replace("{rows}", model.rows);
  }
  const field = { image: "image", text: "text", observation: "text", image_text: "image" }[model.takes]; // of a sample that can be asked about
  const samples = model.samples.filter((sample) => sample[field]);
  $("samples").hidden = !samples.length;
  $("samples-title").textContent = `${medium?.fields ? `${medium.many[0].toUpperCase()}${medium.many.slice(1)} of test episodes` : `Test ${medium?.many}`} the model never trained on`;
  if (model.takes?.startsWith("image")) samples.forEach(addSample);
  else samples.slice(0, MOST_TEXTS).forEach(addText);
  if (model.span_kinds.length || ["series", "observation"].includes(model.takes) || ["transcription", "translation", "recommendation", "rating-prediction", "language-modeling", "detection"].includes(model.task)) {
    $("promise").textContent = model.writes ? "The text will go on here." : "The answer will stand here.";
  }
  if (model.takes === "image_text") {
    [$("text-label").textContent, $("go").textContent] = ["Texts to choose from, one on each line", "Find the nearest text"];
    $("text").value = [...new Set(samples.map((sample) => sample.text))].slice(0, MOST_BARS).join("\n");
    $("promise").textContent = "The texts will stand here, the nearest to the picture first.";
  }
  const goals = Object.entries(model.goals);
  $("goals").hidden = !goals.length;
  $("goals-title").textContent = model.verdict === "certified"
    ? `Certified on ${(model.certified_rows || 0).toLocaleString("en")} ${medium?.fields ? "episodes" : medium?.many || "rows"} that no search saw`
    : "Goals, as measured";
  goals.forEach(([name, goal]) => addGoal(name, goal));
}

function addText(sample) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "text";
  button.textContent = sample.text;
  button.onclick = () => {
    if (model.takes === "observation") return observe(sample.text.split(","));
    $("text").value = sample.text;
    write(sample.label || undefined);
  };
  $("sample-list").append(button);
}

function addField(name) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  input.type = "number";
  input.step = "any";
  input.value = "0";
  input.required = true;
  label.append(name, input);
  $("field-list").append(label);
}

function observe(values) {
  const inputs = [...document.querySelectorAll("#field-list input")];
  inputs.forEach((input, index) => (input.value = Number(values[index])));
  answer(new Blob([inputs.map((input) => input.value).join(", ")], { type: "text/plain" }));
}

function addSample(sample, index) {
  const button = document.createElement("button");
  const image = document.createElement("img");
  image.alt = `Test picture ${index + 1}`;
  image.onload = () => image.classList.toggle("small", image.naturalWidth <= SMALL_PIXELS);
  image.src = sample.image;
  button.type = "button";
  button.setAttribute("aria-pressed", "false");
  button.append(image);
  button.onclick = () => {
    answer(fromDataUri(sample.image), model.takes === "image_text" ? sample.text : sample.label);
    button.setAttribute("aria-pressed", "true");
  };
  $("sample-list").append(button);
}

function addGoal(name, goal) {
  const box = document.createElement("div");
  const add = (tag, kind, text) => {
    const element = document.createElement(tag);
    element.className = kind;
    element.textContent = text;
    box.append(element);
    return element;
  };
  add("dt", "", GOALS[name] || name.replaceAll("_", " "));
  add("dd", "value", amount(goal.measured, goal.unit));
  const note = add("dd", "note", "");
  const met = document.createElement("span");
  met.className = goal.met ? "met" : "missed";
  met.textContent = goal.met ? "✓ met" : "✗ missed";
  note.append(met, `, goal ${bound(goal.bound, goal.unit)}`);
  if (goal.low != null && goal.high != null) {
    add("dd", "note", `95% interval ${amount(goal.low, goal.unit)} to ${amount(goal.high, goal.unit)}`);
  }
  $("goal-list").append(box);
}

function amount(value, unit) {
  if (unit === "share") return percent(value, 2);
  const small = value && Math.abs(value) < 1e-4;
  return measure(small ? Number(value).toExponential(1) : number(value, 4), unit);
}

function measure(digits, unit) {
  return `${digits} ${unit === "mb" ? "MB" : unit || ""}`.trim();
}

function number(value, digits) {
  return Number(value).toLocaleString("en", { maximumSignificantDigits: digits });
}

function bound(text, unit) {
  const [, sign, value] = /^\s*(<=|>=|<|>)\s*(-?[\d.]+(?:e[+-]?\d+)?)\s*$/.exec(text || "") || [];
  if (!sign) return text;
  // the digits that somebody asked for, not rounded as what was measured is
  const asked = unit === "share" ? `${number(value * 100, 6)}%` : measure(number(value, 6), unit);
  return `${sign.startsWith("<") ? "at most" : "at least"} ${asked}`;
}

function bytes(count) {
  return count >= 1e6 ? `${(count / 1e6).toFixed(1)} MB` : `${(count / 1e3).toFixed(1)} kB`;
}

function fromDataUri(uri) {
  const [head, data] = uri.split(",");
  const raw = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  return new Blob([raw], { type: head.slice(5).split(";")[0] });
}

// A picture and the lines below it as one question; null where there is no line.
async function question(chosen) {
  picture = chosen;
  const texts = $("text").value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (!texts.length) return null;
  const bytesOf = new Uint8Array(await chosen.arrayBuffer());
  let letters = "";
  for (let start = 0; start < bytesOf.length; start += 32768) {
    letters += String.fromCharCode(...bytesOf.subarray(start, start + 32768));
  }
  return new Blob([JSON.stringify({ picture: btoa(letters), texts })], { type: "application/json" });
}

async function answer(content, truth) {
  const mine = ++turn;
  document.querySelectorAll("#sample-list button").forEach((b) => b.setAttribute("aria-pressed", "false"));
  if (model.takes.startsWith("image")) preview(content);
  else if (MEDIA[model.takes].accept) {
    $("invite-title").textContent = content.name || "Pasted";
    $("invite-how").textContent = "drop, choose or paste another";
  }
  if (model.takes === "image_text") content = await question(content);
  if (mine !== turn) return;
  if (!content) { // a picture, and no text yet to choose
    $("result").classList.remove("busy");
    return;
  }
  $("result").classList.add("busy");
  try {
    const type = content.type.startsWith(MEDIA[model.takes].type) ? content.type : "";
    const headers = { "Content-Type": type || "application/octet-stream" };
    if (model.writes) {
      headers.Accept = LINES;
      startText(await content.text());
    }
    const how = model.writes ? `?${new URLSearchParams({ max_new: $("max-new").value, temperature: $("temperature").value })}` : "";
    const pieces = (piece) => mine === turn && addPiece(piece);
    const send = (body) => ask(`/page/answer${how}`, { method: "POST", body, headers, pieces });
    const reply = await (model.task === "translation" ? byLine(content, send) : send(content));
    if (mine === turn) showAnswer(reply, truth);
  } catch (error) {
    if (mine === turn) showProblem(error.message);
  }
  if (mine === turn) $("result").classList.remove("busy");
}

// Each line of a text by itself, as the command does with a file; blank ones stay.
async function byLine(content, send) {
  const mine = turn;
  const lines = [];
  let latency = 0;
  for (const line of (await content.text()).trimEnd().split(/\r?\n/)) {
    if (mine !== turn) break; // nobody waits for the rest
    const reply = line.trim() ? await send(new Blob([line])) : { answer: "", latency_ms: 0 };
    lines.push(reply.answer);
    latency += reply.latency_ms;
  }
  return { answer: lines.join("\n"), latency_ms: latency };
}

function preview(picture) {
  const image = $("picture");
  $("frames").replaceChildren();
  URL.revokeObjectURL(image.src);
  image.onload = () => {
    image.classList.toggle("small", image.naturalWidth <= SMALL_PIXELS);
    image.hidden = false;
    $("invite").hidden = true;
    $("drop").classList.add("filled");
  };
  image.onerror = () => {
    image.hidden = true;
    $("invite").hidden = false;
    $("drop").classList.remove("filled");
  };
  image.alt = "The picture that was asked about. Choose another.";
  image.src = URL.createObjectURL(picture);
}

// A text that goes on is shown as it comes.
function startText(prompt) {
  $("waiting").hidden = $("problem").hidden = true;
  ["best", "verdict", "bars", "tagged", "forecast"].forEach((id) => ($(id).hidden = true));
  $("answer").hidden = $("written").hidden = false;
  $("prompt").textContent = prompt;
  $("more").textContent = "";
  $("latency").textContent = "Writing …";
}

function addPiece(piece) {
  $("more").append(piece);
  $("written").scrollTop = $("written").scrollHeight;
  return true;
}

function showProblem(text) {
  $("waiting").hidden = true;
  $("answer").hidden = !$("more").textContent; // what was written so far stays
  $("latency").textContent = "";
  $("problem").textContent = text;
  $("problem").hidden = false;
}

function showAnswer(reply, truth) {
  $("waiting").hidden = $("problem").hidden = true;
  $("answer").hidden = false;
  if (reply.prompt !== undefined) {
    $("latency").textContent = `Written in ${time(reply.latency_ms)}`;
    return;
  }
  const plainAnswer = typeof reply.answer === "string";
  $("frames").replaceChildren();
  $("best").hidden = $("verdict").hidden = !plainAnswer;
  $("bars").hidden = !(reply.probabilities || reply.boxes || reply.ranking || reply.values);
  $("tagged").hidden = !reply.tags;
  $("forecast").hidden = plainAnswer || Boolean(reply.tags);
  const left = reply.boxes ? showBoxes(reply) : reply.words ? showSaid(reply) : plainAnswer ? showChoices(reply, truth) : reply.tags ? showTags(reply) : showForecast(reply);
  $("latency").textContent =
    `Answered in ${time(reply.latency_ms)}${left}`;
}

function time(ms) {
  const [value, unit] = ms < 1000 ? [ms, "ms"] : [ms / 1000, "s"];
  return `${number(value, 2)} ${unit}`;
}

function showBest(text, nothing) {
  $("best").textContent = text || nothing;
  $("best").classList.toggle("long", $("best").textContent.length > 12);
  $("best").classList.toggle("text", text.length > 60 || text.includes("\n"));
  $("best").classList.toggle("nothing", !text);
}

function showChoices(reply, truth) {
  showBest(reply.answer, "(no words)");
  const choices = reply.probabilities || reply.ranking || []; // a text of the model's own has none
  const own = reply.ranking ? "that is its own text" : "that is its label";
  const name = reply.ranking ? "its own text" : "its label";
  if (reply.ranking && !choices.some((item) => item.label === truth)) truth = undefined;
  const right = truth === reply.answer;
  $("verdict").className = truth === undefined ? "" : right ? "right" : "wrong";
  $("verdict").textContent =
    truth === undefined ? "" : right ? `✓ Right: ${own}` : `✗ Wrong: ${name} is ${truth}`;
  if (reply.values) return showValues(reply.values);
  const shown = choices.slice(0, MOST_BARS);
  $("bars").classList.toggle("short", shown.every((item) => item.label.length <= 3));
  $("bars").classList.toggle("wide", shown.some((item) => item.label.length > LONG_LABEL));
  $("bars").replaceChildren(...shown.map(bar));
  const left = choices.length - shown.length;
  return left > 0 ? `; ${left} less likely choices are not shown` : "";
}

function showBoxes(reply) {
  showBest(reply.boxes.length ? reply.answer : "", "Nothing found");
  $("verdict").className = "";
  $("verdict").textContent = "";
  const image = $("picture");
  const [width, height] = [image.naturalWidth || 1, image.naturalHeight || 1];
  $("frames").setAttribute("viewBox", `0 0 ${width} ${height}`);
  $("frames").replaceChildren(...frames(reply.boxes, width, width / (image.clientWidth || width)));
  const shown = reply.boxes.slice(0, MOST_BARS);
  $("bars").classList.remove("short", "wide");
  $("bars").replaceChildren(...shown.map(({ label, score }) => {
    const item = bar({ label, probability: score });
    item.classList.add("colored", colorOf(label));
    return item;
  }));
  const left = reply.boxes.length - shown.length;
  const boxes = left === 1 ? "1 less sure box is" : `${left} less sure boxes are`;
  return left > 0 ? `; ${boxes} framed, but not listed` : "";
}

// Of each box a frame, and above it its label and score, where no other one stands.
// pixel: what one of the screen is in the picture's own
function frames(boxes, width, pixel) {
  const places = [];
  return boxes.flatMap(({ label, score, box: [left, top, right, bottom] }) => {
    const ends = left > width / 2; // else a long label leaves the picture
    const place = { x: ends ? right : left, y: top > LINE * pixel ? top - 4 * pixel : top + LINE * pixel };
    const near = (one) => Math.abs(one.x - place.x) < 5 * LINE * pixel && Math.abs(one.y - place.y) < LINE * pixel;
    while (places.some(near)) place.y += LINE * pixel;
    places.push(place);
    const rect = drawn("rect", { class: colorOf(label), x: left, y: top, width: right - left, height: bottom - top });
    const text = drawn("text", { class: colorOf(label), ...place, "font-size": 12 * pixel, "stroke-width": 3 * pixel, "text-anchor": ends ? "end" : "start" });
    text.textContent = `${label} ${percent(score, 0)}`;
    return [rect, text];
  });
}

function drawn(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
  return element;
}

// The class of a kind of spans or boxes: its place among those that the model knows.
function colorOf(kind) {
  return `k${model.span_kinds.indexOf(kind) % KIND_COLORS}`;
}

function showValues(values) {
  const low = Math.min(...values.map((item) => item.value));
  const reach = values[0].value - low || 1;
  $("bars").classList.remove("short", "wide");
  $("bars").replaceChildren(...values.slice(0, MOST_BARS).map(({ label, value }) => {
    const item = bar({ label, probability: 0.05 + 0.95 * ((value - low) / reach) });
    item.querySelector(".share").textContent = number(value, 4);
    return item;
  }));
  return values.length > MOST_BARS ? `; ${values.length - MOST_BARS} worse choices are not shown` : "";
}

function showSaid(reply) {
  showBest(reply.answer, "(nothing was said)");
  const at = (seconds) => seconds.toLocaleString("en", { minimumFractionDigits: 2 });
  $("verdict").className = "";
  $("verdict").textContent = reply.words.map((one) => `${one.text} ${at(one.start)}–${at(one.end)} s`).join("  ·  ");
  return "";
}

function showTags(reply) {
  const letters = [...reply.text]; // counted as the server does, not in halves of pairs
  const parts = [];
  let place = 0;
  for (const one of reply.answer) {
    parts.push(letters.slice(place, one.start_char).join(""), span(one));
    place = one.end_char;
  }
  $("tagged").replaceChildren(...parts, letters.slice(place).join(""));
  return reply.answer.length ? "" : "; nothing was found";
}

function span({ text, kind }) {
  const mark = document.createElement("mark");
  const name = document.createElement("b");
  mark.className = `kind ${colorOf(kind)}`;
  name.textContent = kind;
  mark.append(text, name);
  return mark;
}

function showForecast(reply) {
  const names = Object.keys(reply.answer);
  $("forecast").replaceChildren(
    ...names.slice(0, MOST_CHARTS).map((name) => chart(name, reply.before[name], reply.answer[name], reply.times)));
  const left = names.length - MOST_CHARTS;
  return left > 0 ? `; ${left} more series are not drawn` : "";
}

function chart(name, before, after, times) {
  const recent = before.slice(-2 * after.length);
  const values = [...recent, ...after];
  const low = Math.min(...values);
  const reach = Math.max(...values) - low || 1;
  const spots = values.map((value, index) => {
    const x = 44 + (index / Math.max(values.length - 1, 1)) * 356;
    return `${x.toFixed(1)},${(84 - ((value - low) / reach) * 80).toFixed(1)}`;
  });
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const title = document.createElement("b");
  title.textContent = name;
  const last = recent.length ? `${number(recent[recent.length - 1], 4)} now, ` : "";
  const when = times ? `, ${times[times.length - 1]}` : "";
  caption.append(title, ` ${last}${number(after[after.length - 1], 4)} in ${after.length} steps${when}`);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 400 88");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${recent.length} last values, then ${after.length} forecast ones`);
  const start = Math.max(recent.length - 1, 0); // the forecast goes on where the past ends
  for (const [kind, points] of [["past", spots.slice(0, recent.length)], ["next", spots.slice(start)]]) {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    line.setAttribute("class", kind);
    line.setAttribute("points", points.join(" "));
    svg.append(line);
  }
  for (const [y, value] of [[10, low + reach], [86, low]]) { // the range, as there is no axis
    const text = document.createElementNS("http://www.w3.org/2000/svg", "text");
    text.setAttribute("y", y);
    text.textContent = number(value, 4);
    svg.append(text);
  }
  figure.append(caption, svg);
  return figure;
}

function write(truth) {
  if (model.takes === "image_text") {
    if (picture) answer(picture);
    return;
  }
  const text = $("text").value;
  if (text.trim()) answer(new Blob([text], { type: "text/plain" }), truth);
}

function percent(share, digits = 1) {
  const step = 10 ** -digits;
  if (share > 0 && share * 100 < step / 2) return `<${step}%`; // never a zero or a hundred that is not one
  if (share < 1 && share * 100 >= 100 - step / 2) return `>${100 - step}%`;
  return `${(share * 100).toFixed(digits)}%`;
}

function bar({ label, probability, score }) {
  const item = document.createElement("li");
  const name = document.createElement("span");
  name.className = "label";
  name.textContent = name.title = label;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  svg.setAttribute("aria-hidden", "true");
  rect.setAttribute("width", `${Math.max(probability ?? score, 0) * 100}%`);
  rect.setAttribute("height", "100%");
  svg.append(rect);
  const share = document.createElement("span");
  share.className = "share";
  share.textContent = probability === undefined ? score.toFixed(3) : percent(probability);
  item.append(name, svg, share);
  return item;
}

$("key").onsubmit = (event) => {
  event.preventDefault();
  key = $("key-value").value.trim();
  if (/^[!-~]+$/.test(key)) return start();
  $("facts").textContent = "A key has letters from A to Z, digits and signs, without blanks."; // a header carries no others
};
$("write").onsubmit = (event) => {
  event.preventDefault();
  write();
};
$("observe").onsubmit = (event) => {
  event.preventDefault();
  observe([...document.querySelectorAll("#field-list input")].map((input) => input.value));
};
$("text").onkeydown = (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) write();
};
$("file").onchange = () => {
  if ($("file").files[0]) answer($("file").files[0]);
  $("file").value = "";
};
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file && !$("try").hidden && !$("drop").hidden) answer(file);
});
addEventListener("paste", (event) => {
  const file = event.clipboardData.files[0];
  if (file && !$("try").hidden && !$("drop").hidden) answer(file);
});
start();
