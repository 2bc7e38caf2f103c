// Curves of tracks, as posetraj_jax.trajectories has them: centripetal Catmull-Rom splines, places
// on them by arc length, and a hand-drawn line made of few control points. No page in here.

const SAME_PX = 1e-6;
const STEPS = 32; // straight pieces that a segment's length is measured with

const apart = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
const plus = (a, b, scale = 1) => [a[0] + scale * b[0], a[1] + scale * b[1]];

// Cubic segments between control points, each different from the one before.
function catmullRom(points) {
  const n = points.length;
  if (n === 1) return { points, velocities: [[0, 0]], knots: [] };
  // Beyond either end the curve goes on as the mirror image of its first and its last segment.
  const ends = [
    plus(plus([0, 0], points[0], 2), points[1], -1),
    plus(plus([0, 0], points[n - 1], 2), points[n - 2], -1),
  ];
  const all = [ends[0], ...points, ends[1]];
  const steps = all.slice(1).map((p, i) => plus(p, all[i], -1));
  const knots = steps.map((s) => Math.sqrt(Math.hypot(s[0], s[1])));
  const velocities = points.map((_, i) => {
    const [before, after] = [knots[i], knots[i + 1]];
    const sum = plus([0, 0], steps[i], 1 / before - 1 / (before + after));
    return plus(sum, steps[i + 1], 1 / after - 1 / (before + after));
  });
  return { points, velocities, knots: knots.slice(1, -1) };
}

// A point of the curve; 0 is the first control point, 1 the second, and so on.
function evaluate(curve, at) {
  if (curve.points.length === 1) return curve.points[0];
  const segment = Math.min(Math.max(Math.floor(at), 0), curve.points.length - 2);
  const s = at - segment;
  const rest = 1 - s;
  const knot = curve.knots[segment];
  let point = plus([0, 0], curve.points[segment], (1 + 2 * s) * rest * rest);
  point = plus(point, curve.velocities[segment], s * rest * rest * knot);
  point = plus(point, curve.points[segment + 1], (3 - 2 * s) * s * s);
  return plus(point, curve.velocities[segment + 1], -rest * s * s * knot);
}

// Where y has reached `wanted`, in a table of increasing y; the answer is in units of x.
function lookUp(wanted, ys, xs) {
  if (wanted <= ys[0]) return xs[0];
  const last = ys.length - 1;
  if (wanted >= ys[last]) return xs[last];
  let [low, high] = [0, last];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (ys[middle] <= wanted) low = middle;
    else high = middle;
  }
  return xs[low] + ((wanted - ys[low]) / (ys[high] - ys[low])) * (xs[high] - xs[low]);
}

// A track ready to be played: at(u) is its place at u in [0, 1], path a line to draw.
function playable(track) {
  const points = track.points;
  if (track.kind === "anchor" || points.length === 1)
    return { at: () => points[0], path: [points[0]] };
  if (track.kind === "frames") {
    const moments = points.map((_, i) => i / (points.length - 1));
    const columns = [0, 1].map((axis) => points.map((p) => p[axis]));
    return { at: (u) => columns.map((column) => lookUp(u, moments, column)), path: points };
  }
  return spline(points, track.times);
}

function spline(points, times) {
  const isNew = points.map((p, i) => i === 0 || apart(p, points[i - 1]) > SAME_PX);
  const curve = catmullRom(points.filter((_, i) => isNew[i]));
  const segments = curve.points.length - 1;
  if (segments === 0) return { at: () => points[0], path: [points[0]] };
  const fine = [...Array(segments * STEPS + 1).keys()].map((i) => i / STEPS);
  const path = fine.map((x) => evaluate(curve, x));
  const lengths = [0];
  for (let i = 1; i < path.length; i++) lengths.push(lengths[i - 1] + apart(path[i], path[i - 1]));
  const whole = lengths[lengths.length - 1];
  let place = (u) => u * whole;
  if (times) {
    let number = -1;
    const atControl = isNew.map((fresh) => lengths[(number += fresh ? 1 : 0) * STEPS]);
    place = (u) => lookUp(u, times, atControl);
  }
  return { at: (u) => evaluate(curve, lookUp(place(u), lengths, fine)), path };
}

// The points of a hand-drawn line without which it would be off by more than `tolerance`
// (Ramer, Douglas and Peucker).
function simplify(line, tolerance) {
  const keep = new Set([0, line.length - 1]);
  const open = [[0, line.length - 1]];
  while (open.length) {
    const [first, last] = open.pop();
    let [worst, index] = [tolerance, -1];
    for (let i = first + 1; i < last; i++) {
      const off = fromSegment(line[i], line[first], line[last]);
      if (off > worst) [worst, index] = [off, i];
    }
    if (index < 0) continue;
    keep.add(index);
    open.push([first, index], [index, last]);
  }
  return line.filter((_, i) => keep.has(i));
}

function fromSegment(point, start, end) {
  const along = plus(end, start, -1);
  const to = plus(point, start, -1);
  const square = along[0] ** 2 + along[1] ** 2;
  const share = square ? (to[0] * along[0] + to[1] * along[1]) / square : 0;
  return apart(point, plus(start, along, Math.min(Math.max(share, 0), 1)));
}
