// The toolbar, the pointer and the keys of the canvas. What is drawn goes to Python as what a track
// file holds: props.value = {size, tracks}. From Python comes the same, with a picture or without.

const DRAG_PX = 5; // a pointer that moves farther draws by hand; pixels of the page
const DOUBLE_MS = 350;
const DOUBLE_PX = 8;
const KEY_STEP_PX = 8;
const HINT = "Drag to draw a track by hand, or click its control points and press New track.";

const find = (selector) => element.querySelector(selector);
const tracks = new Tracks();
const canvas = new Canvas(find("canvas"), props.colours);
let mode = "path";
let isReady = false;

function changed() {
  canvas.setTracks(tracks.all(), tracks.open.length);
  if (!tracks.all().length) stop();
  props.value = { size: canvas.size, tracks: tracks.all() };
  find(".pj-status").textContent = isReady ? status() : "";
  listTracks();
  for (const button of element.querySelectorAll("button")) button.disabled = !isReady;
  find("[data-do=end]").disabled = !tracks.open.length;
  find("[data-do=undo]").disabled = !tracks.before.length;
  for (const name of ["clear", "play", "save"])
    find(`[data-do=${name}]`).disabled = !tracks.all().length;
}

function status() {
  const number = tracks.done.length;
  if (tracks.open.length === 1)
    return `Track ${number}: click where it goes next. Left alone, the point stays.`;
  if (tracks.open.length)
    return `Track ${number}: ${tracks.open.length} points. End it with Enter or New track.`;
  if (mode === "anchor") return "Click on what shall stay where it is.";
  return HINT;
}

function listTracks() {
  const items = tracks.all().map((track, i) => {
    const item = document.createElement("li");
    const chip = document.createElement("span");
    chip.className = "pj-chip";
    chip.style.background = canvas.colours[i % canvas.colours.length];
    const name = document.createElement("span");
    const count = `${track.points.length} ${track.kind === "frames" ? "frames" : "points"}`;
    name.textContent = `Track ${i}: ${track.kind === "anchor" ? "stays" : count}`;
    const remove = document.createElement("button");
    [remove.type, remove.textContent] = ["button", "×"];
    remove.setAttribute("aria-label", `Remove track ${i}`);
    remove.addEventListener("click", () => (tracks.remove(i), changed()));
    item.append(chip, name, remove);
    return item;
  });
  find(".pj-tracks").replaceChildren(...items);
}

function choose(name) {
  mode = name;
  for (const button of element.querySelectorAll("[data-mode]"))
    button.setAttribute("aria-pressed", String(button.dataset.mode === name));
  tracks.end();
  changed();
}

function addPoint(point) {
  if (mode === "anchor") tracks.addAnchor(point);
  else tracks.addPoint(point);
  changed();
}

function stop() {
  canvas.stop();
  showPlaying(false);
}

function showPlaying(isPlaying) {
  const button = find("[data-do=play]");
  button.textContent = isPlaying ? "Stop" : "Play";
  button.setAttribute("aria-pressed", String(isPlaying));
}

function save() {
  const blob = new Blob([JSON.stringify(props.value)], { type: "application/json" });
  const link = document.createElement("a");
  [link.href, link.download] = [URL.createObjectURL(blob), "tracks.json"];
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const actions = {
  end: () => tracks.end(),
  undo: () => tracks.undo(),
  clear: () => tracks.clear(),
  play: () => {
    if (canvas.started !== null) return stop();
    canvas.play();
    showPlaying(true);
  },
  save,
};

for (const [name, act] of Object.entries(actions))
  find(`[data-do=${name}]`).addEventListener("click", () => (act(), changed()));
for (const button of element.querySelectorAll("[data-mode]"))
  button.addEventListener("click", () => choose(button.dataset.mode));

// Pointer: a press and release is a click, a press and a way is a hand-drawn track.
let press = null;
let lastClick = null;

find("canvas").addEventListener("pointerdown", (event) => {
  if (!isReady || event.button !== 0 || press) return;
  press = { id: event.pointerId, x: event.clientX, y: event.clientY, line: [canvas.place(event)] };
  event.currentTarget.setPointerCapture(event.pointerId);
  canvas.cursor = null;
});

find("canvas").addEventListener("pointermove", (event) => {
  if (press?.id !== event.pointerId) return;
  const farther = Math.hypot(event.clientX - press.x, event.clientY - press.y) > DRAG_PX;
  press.isDrag = press.isDrag || (farther && mode === "path");
  press.line.push(canvas.place(event));
  if (!press.isDrag) return;
  const growing = { kind: "frames", points: press.line };
  canvas.setTracks([...tracks.all(), growing], 1);
});

find("canvas").addEventListener("pointerup", (event) => {
  if (press?.id !== event.pointerId) return;
  const { isDrag, line } = press;
  press = null;
  if (isDrag) tracks.addLine([...line, canvas.place(event)]);
  else return click(event, line[0]);
  lastClick = null;
  changed();
});

find("canvas").addEventListener("pointercancel", () => {
  press = null;
  changed();
});

function click(event, point) {
  const isSecond =
    lastClick &&
    event.timeStamp - lastClick.timeStamp < DOUBLE_MS &&
    Math.hypot(event.clientX - lastClick.clientX, event.clientY - lastClick.clientY) < DOUBLE_PX;
  lastClick = isSecond ? null : event;
  if (!isSecond) return addPoint(point);
  tracks.end();
  changed();
}

const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

find("canvas").addEventListener("keydown", (event) => {
  if (!isReady) return;
  const isUndo = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z";
  if (event.key in arrows) {
    const from = canvas.cursor ?? canvas.size.map((side) => side / 2);
    const to = plus(from, arrows[event.key], KEY_STEP_PX * canvas.unit);
    canvas.cursor = to.map((x, axis) => Math.min(Math.max(x, 0), canvas.size[axis]));
  } else if (event.key === " " && canvas.cursor) addPoint(canvas.cursor);
  else if (event.key === "Enter") tracks.end();
  else if (isUndo) tracks.undo();
  else return;
  event.preventDefault();
  changed();
});

find("canvas").addEventListener("blur", () => {
  canvas.cursor = null;
  canvas.draw();
});

async function receive() {
  const given = props.value;
  if (!given?.size || !(isReady || given.picture)) return;
  if (given.picture) {
    await canvas.showPicture(given.picture, given.size);
    tracks.forget();
    [isReady, lastClick] = [true, null];
    find(".pj-empty").hidden = true;
    find("canvas").dataset.shown = String(Number(find("canvas").dataset.shown ?? 0) + 1);
  }
  if (given.tracks) tracks.replace(given.tracks);
  if (given.picture) tracks.before = [];
  changed();
}

watch("value", receive);
new ResizeObserver(() => canvas.draw()).observe(find("canvas"));
changed();
receive();
