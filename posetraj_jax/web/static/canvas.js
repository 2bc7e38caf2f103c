// The picture with its tracks on a canvas: draws them, and plays where they go.

const PLAY_SECONDS = 2; // from the first frame to the last one
const REST_SECONDS = 0.6; // at the last one, before it starts again
const GHOST_RADIUS = 0.07; // of the shorter side: the piece of the picture that travels along

const MOST_HEIGHT_VH = 75; // of a tall picture, so that all of it can be seen at once

class Canvas {
  constructor(element, colours) {
    this.element = element;
    this.context = element.getContext("2d");
    this.colours = colours;
    this.size = [1, 1];
    this.picture = null;
    this.tracks = [];
    this.openPoints = 0; // of the last track, which is still being drawn
    this.cursor = null;
    this.started = null;
  }

  async showPicture(source, size) {
    this.size = size;
    this.picture = null;
    this.element.style.aspectRatio = `${size[0]} / ${size[1]}`;
    this.element.style.width = `min(100%, ${(MOST_HEIGHT_VH * size[0]) / size[1]}vh)`;
    if (source) {
      const picture = new Image();
      picture.src = source;
      await picture.decode();
      this.picture = picture;
    }
    this.draw();
  }

  // Where a pointer is, in pixels of the picture.
  place(event) {
    const box = this.element.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * this.size[0],
      ((event.clientY - box.top) / box.height) * this.size[1],
    ];
  }

  // One pixel of the page in pixels of the picture.
  get unit() {
    return this.size[0] / (this.element.clientWidth || this.size[0]);
  }

  setTracks(tracks, openPoints) {
    this.tracks = tracks.map((track) => ({ ...track, ...playable(track) }));
    this.openPoints = openPoints;
    this.draw();
  }

  play() {
    this.started = performance.now();
    const frame = (now) => {
      if (this.started === null || !this.element.isConnected) return;
      this.draw(now);
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  stop() {
    this.started = null;
    this.draw();
  }

  draw(now = null) {
    const { element, context: c } = this;
    const ratio = window.devicePixelRatio || 1;
    const width = Math.round((element.clientWidth || this.size[0]) * ratio);
    const height = Math.round((width * this.size[1]) / this.size[0]);
    if (element.width !== width || element.height !== height)
      [element.width, element.height] = [width, height];
    c.setTransform(width / this.size[0], 0, 0, height / this.size[1], 0, 0);
    c.clearRect(0, 0, ...this.size);
    if (this.picture) c.drawImage(this.picture, 0, 0, ...this.size);
    this.tracks.forEach((track, i) => this.drawTrack(track, i));
    if (now !== null) this.drawGhosts(now);
    if (this.cursor) this.drawCursor();
  }

  drawTrack(track, i) {
    const colour = this.colours[i % this.colours.length];
    const isOpen = this.openPoints && i === this.tracks.length - 1;
    const last = track.path[track.path.length - 1];
    if (track.kind === "anchor") {
      this.dot(last, 8, colour);
      this.dot(last, 3, "white");
    } else {
      this.line(track.path, colour);
      if (!isOpen) this.arrow(last, direction(track, 1), colour, 9);
      if (track.kind === "spline") track.points.forEach((point) => this.square(point));
    }
    this.number(i, track, colour);
  }

  drawGhosts(now) {
    const cycle = PLAY_SECONDS + REST_SECONDS;
    const seconds = ((now - this.started) / 1000) % cycle;
    const u = Math.min(Math.max(seconds / PLAY_SECONDS, 0), 1);
    this.tracks.forEach((track, i) => {
      if (track.kind === "anchor") return;
      const point = track.at(u);
      this.ghost(track.at(0), point);
      const colour = this.colours[i % this.colours.length];
      this.dot(point, 7, colour);
      this.arrow(point, direction(track, u), "white", 7);
    });
  }

  // The piece of the picture around the start, where the track takes it.
  ghost(start, point) {
    if (!this.picture) return;
    const c = this.context;
    const radius = GHOST_RADIUS * Math.min(...this.size);
    c.save();
    c.beginPath();
    c.arc(...point, radius, 0, 2 * Math.PI);
    c.clip();
    c.globalAlpha = 0.75;
    c.drawImage(this.picture, point[0] - start[0], point[1] - start[1], ...this.size);
    c.restore();
  }

  line(path, colour) {
    const c = this.context;
    [c.lineJoin, c.lineCap] = ["round", "round"];
    for (const [ink, width] of [["black", 5], [colour, 3]]) {
      c.beginPath();
      path.forEach((point) => c.lineTo(...point));
      [c.strokeStyle, c.lineWidth] = [ink, width * this.unit];
      c.stroke();
    }
  }

  arrow(tip, [x, y], colour, length) {
    if (!x && !y) return;
    const [a, b] = [length * this.unit, 0.6 * length * this.unit];
    const barbs = [b, -b].map((side) => [tip[0] - a * x - side * y, tip[1] - a * y + side * x]);
    this.line([barbs[0], tip, barbs[1]], colour);
  }

  dot(point, radius, colour) {
    const c = this.context;
    c.beginPath();
    c.arc(...point, radius * this.unit, 0, 2 * Math.PI);
    [c.fillStyle, c.strokeStyle, c.lineWidth] = [colour, "black", this.unit];
    c.fill();
    c.stroke();
  }

  square([x, y]) {
    const [c, half] = [this.context, 3.5 * this.unit];
    [c.fillStyle, c.strokeStyle, c.lineWidth] = ["white", "black", this.unit];
    c.fillRect(x - half, y - half, 2 * half, 2 * half);
    c.strokeRect(x - half, y - half, 2 * half, 2 * half);
  }

  number(i, track, colour) {
    const [c, unit] = [this.context, this.unit];
    const [ahead, start] = [direction(track, 0), track.path[0]];
    const away = ahead[0] || ahead[1] ? ahead : [0.7, -0.7];
    const at = [0, 1].map((axis) => {
      const edge = 10 * unit;
      const middle = start[axis] - 20 * unit * away[axis];
      return Math.min(Math.max(middle, edge), this.size[axis] - edge);
    });
    this.dot(at, 9, colour);
    c.font = `bold ${13 * unit}px sans-serif`;
    [c.textAlign, c.textBaseline, c.lineJoin] = ["center", "middle", "round"];
    [c.strokeStyle, c.lineWidth, c.fillStyle] = ["black", 3 * unit, "white"];
    c.strokeText(String(i), ...at);
    c.fillText(String(i), ...at);
  }

  drawCursor() {
    const [[x, y], far] = [this.cursor, 9 * this.unit];
    this.line([[x - far, y], [x + far, y]], "white");
    this.line([[x, y - far], [x, y + far]], "white");
  }
}

// The direction of a track at u as a vector of length 1, or of length 0 where it goes nowhere.
function direction(track, u) {
  const [from, to] = [track.at(Math.max(u - 0.02, 0)), track.at(Math.min(u + 0.02, 1))];
  const step = plus(to, from, -1);
  const length = Math.hypot(...step);
  return length > 1e-6 ? step.map((x) => x / length) : [0, 0];
}
