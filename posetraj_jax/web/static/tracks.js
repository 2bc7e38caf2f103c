// What has been drawn: finished tracks, the one that still grows, and what undo goes back to.
// Tracks have the form that a track file gives them. No page in here.

const MOST_UNDO = 500;
const FREE_HAND_PX = 2; // a hand-drawn line may be off by so much, pixels of the picture
const round = (x) => Math.round(100 * x) / 100;

class Tracks {
  constructor() {
    this.forget();
  }

  // Nothing drawn, nothing to undo: another picture.
  forget() {
    this.done = [];
    this.open = []; // control points of the track that clicks add to
    this.before = [];
  }

  // All tracks; a single point that has been ended stays where it is.
  all() {
    return this.open.length ? [...this.done, asTrack(this.open)] : this.done;
  }

  addPoint(point) {
    this.remember();
    this.open = [...this.open, point.map(round)];
  }

  addAnchor(point) {
    this.end();
    this.remember();
    this.done = [...this.done, { kind: "anchor", points: [point.map(round)] }];
  }

  addLine(line) {
    this.end();
    this.remember();
    const points = simplify(line, FREE_HAND_PX).map((p) => p.map(round));
    this.done = [...this.done, { kind: "spline", points }];
  }

  // The next click begins another track.
  end() {
    if (!this.open.length) return;
    this.remember();
    this.done = this.all();
    this.open = [];
  }

  remove(number) {
    this.end();
    this.remember();
    this.done = this.done.filter((_, i) => i !== number);
  }

  clear() {
    this.remember();
    [this.done, this.open] = [[], []];
  }

  replace(tracks) {
    this.remember();
    [this.done, this.open] = [tracks, []];
  }

  undo() {
    const last = this.before.pop();
    if (last) [this.done, this.open] = last;
  }

  remember() {
    this.before.push([this.done, this.open]);
    if (this.before.length > MOST_UNDO) this.before.shift();
  }
}

function asTrack(points) {
  return { kind: points.length === 1 ? "anchor" : "spline", points };
}
