// The numbers of the explorer's script, against vectors that Python wrote (see test_tube_view.py), and
// against answers known by pencil and paper.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

// Loaded as text: a file outside of any package would be taken for CommonJS.
const code = readFileSync(fileURLToPath(new URL("../../workbench/views/explorer/tube_view.js", import.meta.url)), "utf8");
const view = await import(`data:text/javascript;base64,${Buffer.from(code).toString("base64")}`);

/** JSON of Python's payload, in which bytes are {"$base64": …}. */
const revive = (_, value) => {
  if (typeof value?.$base64 !== "string") return value;
  const bytes = Buffer.from(value.$base64, "base64");
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
};
const floats = (data) => new Float32Array(data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength));

const folder = process.env.WORKBENCH_VECTORS;
const cases = folder ? JSON.parse(readFileSync(`${folder}/vectors.json`, "utf8"), revive) : [];

for (const { name, payload, tubes, features } of cases) {
  test(`the tubes of ${name} are Python's`, () => {
    const one = new view.Evidence(payload);
    for (const { target, tau, kept, low, high, peak, profile, sampled, step } of tubes) {
      const tube = one.tube(target, tau);
      const where = `class ${target}, τ ${tau}`;
      assert.equal(tube.kept, kept, where);
      const span = high - low;
      const expected = floats(sampled);
      let worst = Math.max(Math.abs(tube.low - low), Math.abs(tube.high - high));
      expected.forEach((value, n) => (worst = Math.max(worst, Math.abs(value - tube.values[n * step]))));
      assert.ok(worst <= 1e-3 * span, `${where}: ${worst / span} of the range`);
      const line = view.profile(tube);
      floats(profile).forEach((value, n) => assert.ok(Math.abs(value - line[n]) <= 1e-3, where));
      const second = one.tube(target, tau).values[peak];
      assert.ok(high - second <= 2e-3 * span, `${where}: peak`);
    }
    for (const { channel, low, high, sampled, step } of features) {
      const tube = one.featureTube(channel);
      floats(sampled).forEach((value, n) => assert.ok(Math.abs(value - tube.values[n * step]) <= 1e-3 * (high - low)));
    }
  });
}

test("half floats", () => {
  const bits = Uint16Array.from([0x0000, 0x3c00, 0xc000, 0x7bff, 0x0001, 0x3555, 0x7c00]);
  assert.deepEqual([...view.fromHalf(bits)], [0, 1, -2, 65504, 2 ** -24, Math.fround(0.333251953125), Infinity]);
  assert.equal(view.fromHalf(Uint16Array.of(0x3c00), 2.5)[0], 2.5);
});

test("Eq. 1 keeps the features at τ and above, compared in single precision", () => {
  const weights = Float32Array.from([0.1, 0.2, 0.3]);
  const maps = Float32Array.from([1, 0, 10, 0, 100, 1]);
  assert.deepEqual([...view.weightedSum(maps, weights, 0.2).sum], [32, Math.fround(0.3)]);
  assert.equal(view.weightedSum(maps, weights, 0.2).kept, 2);
  assert.equal(view.weightedSum(maps, weights, null).kept, 3);
  assert.equal(view.weightedSum(maps, weights, 1).kept, 0);
  const elements = Float32Array.from([0, 0, 0, 0, 2, 3]);
  assert.deepEqual([...view.weightedSum(maps, weights, 0.3, elements).sum], [200, 3]);
});

test("τ for a share of the features", () => {
  const weights = Float32Array.from([4, 1, 3, 2]);
  assert.equal(view.tauForShare(weights, 0.5), 3);
  assert.equal(view.tauForShare(weights, 1e-9), 4);
  assert.equal(view.tauForShare(weights, 0.625), 3); // 2.5 rounds to 2, as in Python
  assert.equal(view.countKept(weights, 3), 2);
  assert.equal(view.countKept(weights, null), 4);
});

test("a histogram counts every weight once", () => {
  assert.deepEqual(view.histogram(Float32Array.from([0, 1, 1.9, 4]), 4), [1, 2, 0, 1]);
  assert.deepEqual(view.histogram(Float32Array.from([2, 2]), 3), [2, 0, 0]);
});

test("times", () => {
  assert.equal(view.nearest([0, 1, 3], 2.2), 2);
  assert.equal(view.nearest([0, 1, 3], 2), 1); // the earlier of two
  assert.deepEqual(view.timeEnds([0, 1, 3]), [-0.75, 3.75]);
  assert.deepEqual(view.timeEnds([5]), [4.5, 5.5]);
});

/** A ball of a radius in a volume of n³, as saliency that falls off linearly. */
function ball(n, radius) {
  const values = new Float32Array(n ** 3);
  const middle = n / 2;
  for (let t = 0; t < n; t++) {
    for (let y = 0; y < n; y++) {
      for (let x = 0; x < n; x++) {
        const far = Math.hypot(t + 0.5 - middle, y + 0.5 - middle, x + 0.5 - middle);
        values[(t * n + y) * n + x] = Math.max(0, 1 - far / (2 * radius));
      }
    }
  }
  return { values, size: [n, n, n], low: 0, high: 1, kept: 1, tau: null };
}

test("surface nets close around a ball and face outwards", () => {
  const [n, radius] = [24, 8];
  const samples = view.samplesOf(ball(n, radius), Array.from({ length: n }, (_, t) => t + 0.5), n);
  const { positions, triangles } = view.surfaceNets(samples, 0.5);
  for (let k = 0; k < positions.length; k += 3) {
    const far = Math.hypot(...[0, 1, 2].map((c) => positions[k + c] - n / 2));
    assert.ok(Math.abs(far - radius) < 0.3, `a vertex at ${far}`);
  }
  const edges = new Map();
  let volume = 0;
  for (let k = 0; k < triangles.length; k += 3) {
    const corners = [0, 1, 2].map((c) => triangles[k + c]);
    corners.forEach((from, c) => {
      const key = [from, corners[(c + 1) % 3]].join();
      edges.set(key, (edges.get(key) ?? 0) + 1);
    });
    const [a, b, c] = corners.map((corner) => [0, 1, 2].map((axis) => positions[3 * corner + axis]));
    volume += (a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0]) + a[2] * (b[0] * c[1] - b[1] * c[0])) / 6;
  }
  for (const [key, count] of edges) {
    assert.equal(count, 1);
    assert.equal(edges.get(key.split(",").reverse().join()), 1, "an edge without its neighbour");
  }
  const expected = (4 / 3) * Math.PI * radius ** 3;
  assert.ok(Math.abs(Math.abs(volume) - expected) < 0.03 * expected, `volume ${volume}, expected ${expected}`);
});

test("surfaces close at the volume's faces", () => {
  const tube = { values: new Float32Array(64).fill(1), size: [4, 4, 4], low: 0, high: 1, kept: 1, tau: null };
  const { positions, triangles } = view.surfaceNets(view.samplesOf(tube, [0, 1, 2, 3], 4), 0.5);
  assert.ok(triangles.length > 0);
  assert.ok(triangles.every((corner) => corner < positions.length / 3));
  const reach = [0, 1, 2].map((axis) => view.extremes(positions.filter((_, k) => k % 3 === axis)));
  for (const [low, high] of reach.slice(1)) assert.ok(low >= 0 && low < 0.6 && high <= 4 && high > 3.4);
});

test("nothing above the level is no surface", () => {
  const tube = { values: new Float32Array(8), size: [2, 2, 2], low: 0, high: 0, kept: 0, tau: null };
  assert.equal(view.surfaceNets(view.samplesOf(tube, [0, 1], 2), 0.5).triangles.length, 0);
});

test("contours run where the picture crosses the level", () => {
  const values = Float32Array.from([0, 1, 0, 1]); // two columns: 0 and 1
  assert.deepEqual(view.contours(values, 2, 2, 0.25), [0.75, 0.5, 0.75, 1.5]);
});

test("heat and focus are the formulas of wb.heat and wb.focus", () => {
  const tube = { values: Float32Array.from([0, 1]), size: [1, 1, 2], low: 0, high: 1, kept: 1, tau: null };
  const pixels = Uint8ClampedArray.from([100, 100, 100, 255, 100, 100, 100, 255]);
  const table = new Uint8Array(768);
  table.set([0, 0, 200], 0);
  table.set([200, 0, 0], 765);
  const out = new Uint8ClampedArray(8);
  const look = { mode: "heat", opacity: 0.5, table, low: 0, high: 1 };
  view.paint(out, pixels, (n) => tube.values[n], tube, look);
  assert.deepEqual([...out], [50, 50, 150, 255, 150, 50, 50, 255]);
  view.paint(out, pixels, (n) => tube.values[n], tube, { ...look, mode: "focus" });
  assert.deepEqual([...out], [8, 8, 8, 255, 100, 100, 100, 255]);
  view.paint(out, pixels, (n) => tube.values[n], tube, { ...look, mode: "original" });
  assert.deepEqual([...out], [...pixels]);
});

test("a difference is signed", () => {
  const one = { values: Float32Array.from([0, 2]), size: [1, 1, 2], low: 0, high: 2, kept: 1, tau: null };
  const other = { ...one, values: Float32Array.from([2, 0]) };
  assert.deepEqual([...view.difference(one, other).values], [-1, 1]);
});

test("the PDF's table of contents points at its objects", () => {
  const pdf = Buffer.from(view.pdfOf(Uint8Array.of(0xff, 0xd8, 0xff, 0xd9), 40, 20)).toString("latin1");
  const offsets = [...pdf.matchAll(/^(\d{10}) 00000 n/gm)].map((match) => Number(match[1]));
  assert.equal(offsets.length, 5);
  offsets.forEach((offset, n) => assert.ok(pdf.slice(offset).startsWith(`${n + 1} 0 obj`)));
  const start = Number(pdf.match(/startxref\n(\d+)/)[1]);
  assert.ok(pdf.slice(start).startsWith("xref"));
});

test("a camera stands back in a narrow box, and stays on its side", () => {
  assert.equal(view.standBack(600, 350), 1);
  assert.ok(view.standBack(330, 300) > 1.2);
  assert.equal(view.standBack(10, 300), view.standBack(0, 300)); // a box without a width
  const camera = { eye: { x: 3, y: 1, z: -1 }, center: { x: 1, y: 1, z: 0 }, up: { x: 0, y: 0, z: 1 } };
  assert.deepEqual(view.dollied(camera, 2), { ...camera, eye: { x: 5, y: 1, z: -2 } });
});
