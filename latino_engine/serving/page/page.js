"use strict";
// One request draws the samples; the answer is the npz that the download offers, read here too.

const $ = (id) => document.getElementById(id);

// name -> [title, sliders: [key, title, least, most, step, value], what stands before the sliders]
const KINDS = {
  blur: ["Gaussian blur", [["std", "Width in pixels", 0.3, 6, 0.1, 1.6]]],
  uniform: ["Uniform blur", [["size", "Side in pixels", 3, 31, 2, 9]]],
  motion: ["Motion blur", [["size", "Length in pixels", 5, 41, 2, 17]]],
  sr: ["Small image (super-resolution)", [["factor", "Factor", 2, 8, 1, 4]]],
  inpaint: ["Missing pixels, at random", [["random", "Missing share", 0.1, 0.95, 0.05, 0.5]]],
  box: ["A missing square", [["box", "Side in pixels", 8, 128, 8, 64]]],
  mask: ["Missing pixels, by a mask file", []],
  kernel: ["Blur with a kernel file", []],
  denoise: ["Noise alone", []],
  jpeg: ["JPEG", [["quality", "Quality", 1, 95, 1, 20]]],
};

let shown = null; // {samples: [ImageData], high: of the range}
let running = null;
let url = null;

function number(key, title, least, most, step, value) {
  const label = document.createElement("label");
  label.className = "slider";
  const output = document.createElement("output");
  const input = document.createElement("input");
  Object.assign(input, { type: "range", id: "n-" + key, min: least, max: most, step, value });
  output.textContent = input.value;
  input.addEventListener("input", () => { output.textContent = input.value; });
  label.append(title + " ", output, input);
  return label;
}

function showKind() {
  const kind = $("kind").value;
  $("numbers").replaceChildren(...KINDS[kind][1].map((args) => number(...args)));
  $("mask-label").hidden = kind !== "mask";
  $("kernel-label").hidden = kind !== "kernel";
}

function operator() {
  const kind = $("kind").value;
  if (kind === "mask") return "inpaint:mask=mask";
  if (kind === "kernel") return "blur:kernel=kernel";
  const name = kind === "box" ? "inpaint" : kind;
  const values = KINDS[kind][1].map(([key]) => `${key}=${$("n-" + key).value}`);
  return values.length ? `${name}:${values.join(",")}` : name;
}

function headers() {
  const token = $("token").value;
  return token ? { Authorization: "Bearer " + token } : {};
}

function fail(sentence) {
  $("error").textContent = sentence;
  $("status").textContent = "";
}

async function sample(event) {
  event.preventDefault();
  $("error").textContent = "";
  const file = $("image").files[0];
  if (!file) return fail("Choose a photo first.");
  const form = new FormData();
  form.append("image", file);
  form.append("operator", operator());
  form.append("noise_std", $("noise").value);
  form.append("num_samples", $("samples").value);
  form.append("seed", $("seed").value);
  form.append("simulate", $("simulate").checked ? "true" : "false");
  if ($("engine").value) form.append("engine", $("engine").value);
  for (const name of ["mask", "kernel"]) {
    if ($("kind").value !== name) continue;
    const extra = $(name).files[0];
    if (!extra) return fail(`Choose the ${name} file first.`);
    form.append(name, extra);
  }
  form.append("format", "json");
  running = new AbortController();
  $("go").disabled = true;
  $("stop").hidden = false;
  const start = performance.now();
  const clock = setInterval(() => {
    $("status").textContent = `Sampling, ${((performance.now() - start) / 1000).toFixed(1)} s`;
  }, 100);
  try {
    const answer = await fetch("/v1/sample", {
      method: "POST", body: form, headers: headers(), signal: running.signal,
    });
    if (answer.status === 401) $("token-label").hidden = false;
    const body = await answer.json();
    if (!answer.ok) return fail(body.error.sentence);
    await show(body);
    await offer(form);
    $("status").textContent = "";
  } catch (error) {
    fail(error.name === "AbortError" ? "Stopped." : "The service does not answer.");
  } finally {
    clearInterval(clock);
    $("go").disabled = false;
    $("stop").hidden = true;
  }
}

// The whole posterior is drawn again where it is asked for: the same seed gives the same samples.
async function offer(form) {
  if (url) URL.revokeObjectURL(url);
  url = null;
  form.set("format", "npz");
  $("download").onclick = async (event) => {
    if (url) return;
    event.preventDefault();
    const answer = await fetch("/v1/sample", { method: "POST", body: form, headers: headers() });
    if (!answer.ok) return fail((await answer.json()).error.sentence);
    url = URL.createObjectURL(await answer.blob());
    $("download").href = url;
    $("download").click();
  };
}

function decode(png) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => {
      const canvas = document.createElement("canvas");
      canvas.width = image.naturalWidth;
      canvas.height = image.naturalHeight;
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      resolve(context.getImageData(0, 0, canvas.width, canvas.height));
    };
    image.onerror = reject;
    image.src = "data:image/png;base64," + png;
  });
}

async function show(body) {
  const images = body.images;
  const panels = [];
  if (images.measurement) panels.push(["measurement", images.measurement]);
  panels.push(["mean", images.mean]);
  if (images.std) {
    panels.push([`standard deviation (white: ${images.std_white.toFixed(3)})`, images.std]);
  }
  images.samples.forEach((png, i) => panels.push([`sample ${i + 1}`, png]));
  $("pictures").replaceChildren(...panels.map(([title, png]) => panel(title, png)));
  const chi2 = body.residual_chi2.filter((v) => v !== null);
  const mean = chi2.reduce((a, b) => a + b, 0) / Math.max(chi2.length, 1);
  $("figures").textContent =
    `${body.operator}; ${body.nfe} evaluations a sample, ${(body.time_ms / 1000).toFixed(2)} s, ` +
    `residual chi-square ${mean.toFixed(2)} (exact samples: about 1)`;
  shown = { samples: await Promise.all(images.samples.map(decode)), point: null };
  const colour = body.shape[0] === 3;
  const names = colour ? ["red", "green", "blue"] : ["grey"];
  $("channel").replaceChildren(...names.map((name, i) => new Option(name, i)));
  $("results").hidden = false;
  histogram(0.5, 0.5);
}

function panel(title, png) {
  const figure = document.createElement("figure");
  const frame = document.createElement("div");
  frame.className = "frame";
  const image = document.createElement("img");
  image.src = "data:image/png;base64," + png;
  image.alt = title;
  image.addEventListener("click", (event) => {
    const box = image.getBoundingClientRect();
    histogram((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  });
  const caption = document.createElement("figcaption");
  caption.textContent = title;
  frame.append(image);
  figure.append(frame, caption);
  return figure;
}

function mark(across, down) {
  document.querySelectorAll(".mark").forEach((old) => old.remove());
  document.querySelectorAll(".frame").forEach((frame) => {
    const dot = document.createElement("span");
    dot.className = "mark";
    dot.style.left = 100 * across + "%";
    dot.style.top = 100 * down + "%";
    frame.append(dot);
  });
}

function histogram(across, down) {
  const { width, height } = shown.samples[0];
  const x = Math.min(width - 1, Math.max(0, Math.floor(across * width)));
  const y = Math.min(height - 1, Math.max(0, Math.floor(down * height)));
  shown.point = [across, down];
  mark(across, down);
  const channel = Number($("channel").value || 0);
  const values = shown.samples.map((s) => s.data[4 * (y * width + x) + channel] / 255);
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const spread = Math.sqrt(
    values.reduce((a, b) => a + (b - mean) ** 2, 0) / Math.max(values.length - 1, 1));
  $("pixel-text").textContent =
    `Row ${y}, column ${x}: mean ${mean.toFixed(3)}` +
    (values.length > 1 ? `, standard deviation ${spread.toFixed(3)}` : "") +
    `, of ${values.length} samples.`;
  draw(values);
}

function draw(values) {
  const bins = new Array(32).fill(0);
  values.forEach((v) => { bins[Math.min(31, Math.floor(v * 32))] += 1; });
  const canvas = $("histogram");
  const context = canvas.getContext("2d");
  const [left, bottom] = [30, canvas.height - 22];
  const wide = (canvas.width - left - 10) / 32;
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = "#0b6bcb";
  const most = Math.max(...bins);
  bins.forEach((count, i) => {
    const tall = (count / most) * (bottom - 10);
    context.fillRect(left + i * wide, bottom - tall, wide - 1, tall);
  });
  context.fillStyle = "#222";
  context.font = "12px system-ui, sans-serif";
  context.fillRect(left, bottom, 32 * wide, 1);
  [0, 0.25, 0.5, 0.75, 1].forEach((v) => {
    context.textAlign = v === 1 ? "right" : v === 0 ? "left" : "center";
    context.fillText(String(v), left + 32 * wide * v, canvas.height - 6);
  });
  context.textAlign = "right";
  context.fillText(String(most), left - 6, 18);
}

function choose(file) {
  $("error").textContent = "";
  $("drop-text").textContent = file.name;
  const image = $("chosen");
  if (image.src) URL.revokeObjectURL(image.src);
  image.hidden = !/\.(png|jpe?g)$/i.test(file.name);
  if (!image.hidden) image.src = URL.createObjectURL(file);
}

function follow(id) {
  const input = $(id);
  const tell = () => { $(id + "-out").textContent = input.value; };
  input.addEventListener("input", tell);
  tell();
}

async function engines() {
  const answer = await fetch("/v1/engines", { headers: headers() });
  if (answer.status === 401) {
    $("token-label").hidden = false;
    return;
  }
  $("engine").replaceChildren(...Object.keys(await answer.json()).map((n) => new Option(n, n)));
}

document.addEventListener("DOMContentLoaded", () => {
  $("kind").append(...Object.entries(KINDS).map(([name, [title]]) => new Option(title, name)));
  $("kind").addEventListener("change", showKind);
  showKind();
  follow("noise");
  follow("samples");
  $("form").addEventListener("submit", sample);
  $("stop").addEventListener("click", () => running && running.abort());
  $("token").addEventListener("change", engines);
  $("channel").addEventListener("change", () => shown && histogram(...shown.point));
  $("image").addEventListener("change", () => {
    if ($("image").files[0]) choose($("image").files[0]);
  });
  const drop = $("drop");
  for (const name of ["dragenter", "dragover"]) {
    drop.addEventListener(name, (e) => { e.preventDefault(); drop.classList.add("over"); });
  }
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (e) => {
    e.preventDefault();
    drop.classList.remove("over");
    if (!e.dataTransfer.files.length) return;
    $("image").files = e.dataTransfer.files;
    choose(e.dataTransfer.files[0]);
  });
  engines();
});
