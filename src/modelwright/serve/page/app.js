// Try the model: a picture in, the answer with its probabilities out. No library, no storage.
"use strict";

const MOST_BARS = 10;
const SMALL_PIXELS = 64; // below this a picture is shown with its pixels, not blurred
const GOALS = {
  accuracy: "Accuracy", latency_p50_ms: "Half of the answers within",
  latency_p95_ms: "95% of answers within", latency_p99_ms: "99% of answers within",
  size_mb: "File size",
};
const $ = (id) => document.getElementById(id);
let key = ""; // in memory alone: gone when the page closes
let turn = 0; // the newest question; answers to older ones are dropped

async function ask(address, options = {}) {
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let reply;
  try {
    reply = await fetch(address, { ...options, headers });
  } catch {
    throw new Error("The server cannot be reached. Is it still running?");
  }
  const body = await reply.json().catch(() => ({}));
  if (reply.ok) return body;
  const error = new Error(plain(reply.status, body.error));
  error.status = reply.status;
  throw error;
}

function plain(status, text) {
  if (status === 400) return "This file cannot be read as a picture. Use a whole PNG or JPEG.";
  if (status === 401) return "That key is not the right one.";
  if (status === 408) return "The upload took too long. Try again, or use a smaller picture.";
  if (status === 413) return "This picture is too large for the server. Use a smaller one.";
  if (status === 503) return "The server is busy or stopping. Try again in a moment.";
  if (status === 504) return "The model took too long. Try again in a moment.";
  return `The server could not answer${text ? `: ${text}` : ""}.`;
}

async function start() {
  let model;
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
  show(model);
}

function show(model) {
  document.title = `${model.name} – try the model`;
  $("name").textContent = model.name;
  $("facts").textContent = [
    model.task && model.task.replaceAll("-", " "),
    model.classes > 1 && `${model.classes} classes`,
    model.num_params && `${model.num_params.toLocaleString("en")} parameters`,
    bytes(model.model_bytes),
    `version ${model.version}`,
  ].filter(Boolean).join("  ·  ");
  $("endpoint").textContent = `${location.origin}/v2/models/${model.name}/infer`;
  if (!model.pictures) {
    $("facts").textContent += ". This model does not take pictures; ask it at the address below.";
  }
  $("try").hidden = !model.pictures;
  $("samples").hidden = !(model.pictures && model.samples.length);
  model.samples.forEach(addSample);
  const goals = Object.entries(model.goals);
  $("goals").hidden = !goals.length;
  $("goals-title").textContent = model.verdict === "certified"
    ? `Certified on ${(model.certified_rows || 0).toLocaleString("en")} pictures that no search saw`
    : "Goals, as measured";
  goals.forEach(([name, goal]) => addGoal(name, goal));
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
    answer(fromDataUri(sample.image), sample.label);
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
  if (unit === "share") return `${(value * 100).toLocaleString("en", { maximumFractionDigits: 1 })}%`;
  return `${Number(value).toLocaleString("en", { maximumSignificantDigits: 3 })} ${unit || ""}`.trim();
}

function bound(text, unit) {
  const [, sign, value, rest] = /^\s*(<=|>=|<|>)\s*([\d.]+)\s*(.*)$/.exec(text || "") || [];
  if (!sign || rest) return text;
  return `${sign.startsWith("<") ? "at most" : "at least"} ${amount(Number(value), unit)}`;
}

function bytes(count) {
  return count >= 1e6 ? `${(count / 1e6).toFixed(1)} MB` : `${(count / 1e3).toFixed(1)} kB`;
}

function fromDataUri(uri) {
  const [head, data] = uri.split(",");
  const raw = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  return new Blob([raw], { type: head.slice(5).split(";")[0] });
}

async function answer(picture, truth) {
  const mine = ++turn;
  document.querySelectorAll("#sample-list button").forEach((b) => b.setAttribute("aria-pressed", "false"));
  preview(picture);
  $("result").classList.add("busy");
  try {
    const headers = { "Content-Type": picture.type || "application/octet-stream" };
    const reply = await ask("/page/answer", { method: "POST", body: picture, headers });
    if (mine === turn) showAnswer(reply, truth);
  } catch (error) {
    if (mine === turn) showProblem(error.message);
  }
  if (mine === turn) $("result").classList.remove("busy");
}

function preview(picture) {
  const image = $("picture");
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

function showProblem(text) {
  $("waiting").hidden = $("answer").hidden = true;
  $("problem").textContent = text;
  $("problem").hidden = false;
}

function showAnswer(reply, truth) {
  $("waiting").hidden = $("problem").hidden = true;
  $("answer").hidden = false;
  $("best").textContent = reply.answer;
  $("best").classList.toggle("long", reply.answer.length > 12);
  const right = truth === reply.answer;
  $("verdict").className = truth === undefined ? "" : right ? "right" : "wrong";
  $("verdict").textContent =
    truth === undefined ? "" : right ? "✓ Right: that is its label" : `✗ Wrong: its label is ${truth}`;
  const shown = reply.probabilities.slice(0, MOST_BARS);
  $("bars").classList.toggle("short", shown.every((item) => item.label.length <= 3));
  $("bars").replaceChildren(...shown.map(bar));
  const left = reply.probabilities.length - shown.length;
  $("latency").textContent =
    `Answered in ${reply.latency_ms.toLocaleString("en", { maximumSignificantDigits: 2 })} ms` +
    (left > 0 ? `; ${left} less likely choices are not shown` : "");
}

function percent(share) {
  if (share > 0 && share < 0.0005) return "<0.1%"; // never a zero or a hundred that is not one
  if (share < 1 && share >= 0.9995) return ">99.9%";
  return `${(share * 100).toFixed(1)}%`;
}

function bar({ label, probability }) {
  const item = document.createElement("li");
  const name = document.createElement("span");
  name.className = "label";
  name.textContent = name.title = label;
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  svg.setAttribute("aria-hidden", "true");
  rect.setAttribute("width", `${probability * 100}%`);
  rect.setAttribute("height", "100%");
  svg.append(rect);
  const share = document.createElement("span");
  share.className = "share";
  share.textContent = percent(probability);
  item.append(name, svg, share);
  return item;
}

$("key").onsubmit = (event) => {
  event.preventDefault();
  key = $("key-value").value.trim();
  start();
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
  if (file && !$("try").hidden) answer(file);
});
addEventListener("paste", (event) => {
  const file = event.clipboardData.files[0];
  if (file && !$("try").hidden) answer(file);
});
start();
