// @ts-check
/**
 * The explorer in the browser: it holds a clip's activation maps and class weights, computes the tube of
 * any class and τ, and draws overlay, volume and timeline. The same file serves the notebook, where
 * anywidget calls `render`, and the saved page, where `mount` is called with a `Page`.
 *
 * Sections: numbers (no DOM, tested under node), drawing, the volume, controls, the application, hosts.
 */

// ---------------------------------------------------------------------------------------------- numbers

/**
 * A tube as the page computes it; `values` is (T, H, W), row-major.
 * @typedef {{values: Float32Array, size: number[], low: number, high: number, kept: number, signed?: boolean,
 *            tau: number | null}} Tube
 * @typedef {{positions: Float32Array, triangles: Uint32Array}} Mesh
 */

/** @type {Float32Array | null} */
let halves = null;

/**
 * Decode half-precision floats.
 * @param {Uint16Array} bits
 * @param {number} scale multiplies every number
 */
export function fromHalf(bits, scale = 1) {
  if (halves === null) {
    halves = new Float32Array(65536);
    for (let n = 0; n < 65536; n++) {
      const exponent = (n >> 10) & 31;
      const fraction = n & 1023;
      let value = exponent === 31 ? (fraction ? NaN : Infinity) : 2 ** (exponent - 15) * (1 + fraction / 1024);
      if (exponent === 0) value = 2 ** -24 * fraction;
      halves[n] = n & 32768 ? -value : value;
    }
  }
  const out = new Float32Array(bits.length);
  for (let n = 0; n < bits.length; n++) out[n] = scale * halves[bits[n]];
  return out;
}

/**
 * Eq. 1 and 2: the sum of y_j a_j over the features with y_j ≥ τ.
 * @param {Float32Array} maps (C, V), V voxels a map
 * @param {Float32Array} weights (C,) what τ is compared with
 * @param {number | null} tau null keeps all features
 * @param {Float32Array | null} elements (C, V) weights of single voxels; null: `weights` hold for all
 */
export function weightedSum(maps, weights, tau, elements = null) {
  const voxels = maps.length / weights.length;
  const sum = new Float64Array(voxels);
  // Weights are single precision, so τ is compared in it too, as torch does.
  const threshold = tau === null ? -Infinity : Math.fround(tau);
  let kept = 0;
  for (let j = 0; j < weights.length; j++) {
    const weight = weights[j];
    if (!(weight >= threshold)) continue;
    kept++;
    const first = j * voxels;
    if (elements) for (let v = 0; v < voxels; v++) sum[v] += elements[first + v] * maps[first + v];
    else for (let v = 0; v < voxels; v++) sum[v] += weight * maps[first + v];
  }
  return { sum: Float32Array.from(sum), kept };
}

/**
 * Interpolate a map by its three spline matrices, (target, source) each.
 * @param {Float32Array} map (t, h, w)
 * @param {number[]} grid [t, h, w]
 * @param {Float32Array[]} splines
 * @param {number[]} size [T, H, W]
 */
export function upsample(map, grid, splines, size) {
  const [t, h, w] = grid;
  const [T, H, W] = size;
  const [alongT, alongH, alongW] = splines;
  // Height last: it adds whole rows up, which lie one after the other in memory.
  const later = multiply(alongT, map, T, t, h * w);
  const acrossW = transposed(alongW, W, w);
  // Rows of zeros fill up the last eight.
  const count = 8 * Math.ceil(h / 8);
  const wide = new Float32Array(count * W);
  const weights = new Float32Array(H * count);
  for (let y = 0; y < H; y++) weights.set(alongH.subarray(y * h, (y + 1) * h), y * count);
  const out = new Float32Array(T * H * W);
  for (let frame = 0; frame < T; frame++) {
    wide.set(multiply(later.subarray(frame * h * w, (frame + 1) * h * w), acrossW, h, w, W));
    for (let y = 0; y < H; y++) {
      for (let n = 0; n < count; n += 8) addEight(out, (frame * H + y) * W, wide, n * W, W, weights, y * count + n);
    }
  }
  return out;
}

/**
 * Add eight rows to a row, each by its weight. The weights are held in variables: twice as fast as a loop over them.
 * @param {Float32Array} out
 * @param {number} place where its row begins
 * @param {Float32Array} rows
 * @param {number} top where the eight begin
 * @param {number} W
 * @param {Float32Array} weights
 * @param {number} k where theirs begin
 */
function addEight(out, place, rows, top, W, weights, k) {
  const a = weights[k];
  const b = weights[k + 1];
  const c = weights[k + 2];
  const d = weights[k + 3];
  const e = weights[k + 4];
  const f = weights[k + 5];
  const g = weights[k + 6];
  const h = weights[k + 7];
  for (let x = 0; x < W; x++) {
    const p = top + x;
    const upper = a * rows[p] + b * rows[p + W] + c * rows[p + 2 * W] + d * rows[p + 3 * W];
    const lower = e * rows[p + 4 * W] + f * rows[p + 5 * W] + g * rows[p + 6 * W] + h * rows[p + 7 * W];
    out[place + x] += upper + lower;
  }
}

/**
 * @param {Float32Array} matrix (rows, columns)
 * @param {number} rows
 * @param {number} columns
 */
function transposed(matrix, rows, columns) {
  const out = new Float32Array(matrix.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) out[c * rows + r] = matrix[r * columns + c];
  return out;
}

/**
 * @param {Float32Array} left (rows, inner)
 * @param {Float32Array} right (inner, columns)
 * @param {number} rows
 * @param {number} inner
 * @param {number} columns
 */
function multiply(left, right, rows, inner, columns) {
  const out = new Float32Array(rows * columns);
  for (let r = 0; r < rows; r++) {
    for (let k = 0; k < inner; k++) {
      const factor = left[r * inner + k];
      for (let c = 0; c < columns; c++) out[r * columns + c] += factor * right[k * columns + c];
    }
  }
  return out;
}

/** @param {Float32Array} values */
export function extremes(values) {
  let low = Infinity;
  let high = -Infinity;
  for (let n = 0; n < values.length; n++) {
    const value = values[n];
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

/**
 * Return (T,) the mean over each frame of the tube scaled to [0, 1] over the whole volume.
 * @param {Tube} tube
 */
export function profile(tube) {
  const [T, H, W] = tube.size;
  const span = tube.high - tube.low;
  return Float32Array.from({ length: T }, (_, frame) => {
    let sum = 0;
    for (let n = frame * H * W; n < (frame + 1) * H * W; n++) sum += tube.values[n];
    return span > 0 ? (sum / (H * W) - tube.low) / span : 0;
  });
}

/**
 * Frame of the largest voxel.
 * @param {Tube} tube
 */
export function peakFrame(tube) {
  const place = tube.values.findIndex((value) => value === tube.high);
  return Math.max(0, Math.floor(place / (tube.size[1] * tube.size[2])));
}

/**
 * The τ that keeps a share of the features: at least one, and all that tie with the last.
 * @param {Float32Array} weights
 * @param {number} share
 */
export function tauForShare(weights, share) {
  const kept = Math.max(1, roundHalfEven(share * weights.length));
  return Float32Array.from(weights).sort()[weights.length - kept];
}

/** Round as Python does. @param {number} value */
function roundHalfEven(value) {
  const whole = Math.round(value);
  return whole - value === 0.5 && whole % 2 ? whole - 1 : whole;
}

/**
 * @param {Float32Array} weights
 * @param {number | null} tau
 */
export function countKept(weights, tau) {
  if (tau === null) return weights.length;
  const threshold = Math.fround(tau);
  return weights.reduce((sum, weight) => sum + Number(weight >= threshold), 0);
}

/**
 * How many weights fall into each of `bins` equal parts of their range.
 * @param {Float32Array} weights
 * @param {number} bins
 */
export function histogram(weights, bins) {
  const [low, high] = extremes(weights);
  const counts = new Array(bins).fill(0);
  for (const weight of weights) {
    const place = high > low ? Math.floor((bins * (weight - low)) / (high - low)) : 0;
    counts[Math.min(bins - 1, place)]++;
  }
  return counts;
}

/**
 * Position of the number in `times` nearest to `time`.
 * @param {number[]} times
 * @param {number} time
 */
export function nearest(times, time) {
  let best = 0;
  times.forEach((value, n) => {
    if (Math.abs(value - time) < Math.abs(times[best] - time)) best = n;
  });
  return best;
}

/**
 * Where the first frame begins and the last one ends: half a step before and behind.
 * @param {number[]} times
 */
export function timeEnds(times) {
  const steps = times.slice(1).map((time, n) => time - times[n]).sort((a, b) => a - b);
  const middle = steps.length >> 1;
  const step = steps.length === 0 ? 1 : steps.length % 2 ? steps[middle] : (steps[middle - 1] + steps[middle]) / 2;
  return [times[0] - step / 2, times[times.length - 1] + step / 2];
}

/** @typedef {{values: Float32Array, dims: number[], axes: number[][]}} Samples */

/**
 * Evenly chosen samples of a tube, 0 to 1, in a shell of zeros that closes surfaces at the volume's faces,
 * and where they lie along time, rows and columns.
 * @param {Tube} tube
 * @param {number[]} times
 * @param {number} most samples along an axis
 * @returns {Samples}
 */
export function samplesOf(tube, times, most) {
  const [, H, W] = tube.size;
  const chosen = tube.size.map((n) => {
    const count = Math.min(n, most);
    return Array.from({ length: count }, (_, k) => Math.round((k * (n - 1)) / Math.max(1, count - 1)));
  });
  const ends = [timeEnds(times), [0, H], [0, W]];
  const axes = chosen.map((places, axis) => [
    ends[axis][0],
    ...places.map((n) => (axis === 0 ? times[n] : n + 0.5)),
    ends[axis][1],
  ]);
  const dims = axes.map((axis) => axis.length);
  const values = new Float32Array(dims[0] * dims[1] * dims[2]);
  const factor = tube.high > tube.low ? 1 / (tube.high - tube.low) : 0;
  chosen[0].forEach((frame, a) =>
    chosen[1].forEach((y, b) => {
      const row = (frame * H + y) * W;
      let place = ((a + 1) * dims[1] + b + 1) * dims[2] + 1;
      for (const x of chosen[2]) values[place++] = (tube.values[row + x] - tube.low) * factor;
    }),
  );
  return { values, dims, axes };
}

/**
 * The surface where samples cross a level, by surface nets (Gibson, MICCAI 1998): a vertex in each cell
 * that the surface passes, at the mean of its crossings, and a quadrilateral across each crossed edge.
 * @param {Samples} samples whose outermost values lie below the level
 * @param {number} level
 * @returns {Mesh} positions are (time, column, row)
 */
export function surfaceNets(samples, level) {
  const { values, dims, axes } = samples;
  const strides = [dims[1] * dims[2], dims[2], 1];
  const offsets = Array.from({ length: 8 }, (_, c) => (c & 1) * strides[0] + ((c >> 1) & 1) * strides[1] + (c >> 2));
  const vertexOf = new Int32Array(values.length).fill(-1);
  /** @type {number[]} */
  const positions = [];
  for (let a = 0; a < dims[0] - 1; a++) {
    for (let b = 0; b < dims[1] - 1; b++) {
      for (let c = 0; c < dims[2] - 1; c++) {
        const cell = a * strides[0] + b * strides[1] + c;
        let mask = 0;
        for (let corner = 0; corner < 8; corner++) mask |= Number(values[cell + offsets[corner]] > level) << corner;
        if (mask === 0 || mask === 255) continue;
        vertexOf[cell] = positions.length / 3;
        const at = meanCrossing(values, cell, offsets, mask, level);
        positions.push(along(axes[0], a + at[0]), along(axes[2], c + at[2]), along(axes[1], b + at[1]));
      }
    }
  }
  return { positions: Float32Array.from(positions), triangles: quads(samples, strides, vertexOf, level) };
}

/**
 * @param {Float32Array} values
 * @param {number} cell
 * @param {number[]} offsets
 * @param {number} mask
 * @param {number} level
 */
function meanCrossing(values, cell, offsets, mask, level) {
  const sum = [0, 0, 0];
  let count = 0;
  for (let corner = 0; corner < 8; corner++) {
    for (let axis = 0; axis < 3; axis++) {
      const other = corner | (1 << axis);
      if (other === corner || ((mask >> corner) & 1) === ((mask >> other) & 1)) continue;
      const low = values[cell + offsets[corner]];
      const share = (level - low) / (values[cell + offsets[other]] - low);
      for (let n = 0; n < 3; n++) sum[n] += n === axis ? share : (corner >> n) & 1;
      count++;
    }
  }
  return sum.map((value) => value / count);
}

/**
 * @param {number[]} axis
 * @param {number} place between its entries
 */
function along(axis, place) {
  const n = Math.min(Math.floor(place), axis.length - 2);
  return axis[n] + (place - n) * (axis[n + 1] - axis[n]);
}

/**
 * Two triangles for each edge of the grid that the surface crosses, joining the four cells around it.
 * @param {Samples} samples
 * @param {number[]} strides
 * @param {Int32Array} vertexOf
 * @param {number} level
 */
function quads({ values, dims }, strides, vertexOf, level) {
  /** @type {number[]} */
  const triangles = [];
  const at = [0, 0, 0];
  for (at[0] = 0; at[0] < dims[0] - 1; at[0]++) {
    for (at[1] = 0; at[1] < dims[1] - 1; at[1]++) {
      for (at[2] = 0; at[2] < dims[2] - 1; at[2]++) {
        const place = at[0] * strides[0] + at[1] * strides[1] + at[2];
        const inside = values[place] > level;
        for (let axis = 0; axis < 3; axis++) {
          const [next, last] = [(axis + 1) % 3, (axis + 2) % 3];
          if (inside === values[place + strides[axis]] > level || !at[next] || !at[last]) continue;
          const [u, v] = [strides[next], strides[last]];
          const [p, q, r, s] = [place - u - v, place - v, place, place - u].map((cell) => vertexOf[cell]);
          if (inside) triangles.push(p, q, r, p, r, s);
          else triangles.push(p, r, q, p, s, r);
        }
      }
    }
  }
  return Uint32Array.from(triangles);
}

/**
 * The lines where a picture crosses a level, by marching squares: x0, y0, x1, y1 of each segment, in
 * pixels, where pixel i has its centre at i + 0.5.
 * @param {Float32Array} values (height, width)
 * @param {number} height
 * @param {number} width
 * @param {number} level
 */
export function contours(values, height, width, level) {
  /** @type {number[]} */
  const segments = [];
  for (let y = 0; y < height - 1; y++) {
    for (let x = 0; x < width - 1; x++) {
      const n = y * width + x;
      const corners = [values[n], values[n + 1], values[n + width + 1], values[n + width]];
      const ends = [];
      for (let k = 0; k < 4; k++) {
        const [p, q] = [corners[k], corners[(k + 1) % 4]];
        if (p > level === q > level) continue;
        const share = (level - p) / (q - p);
        ends.push([
          [x + share, y],
          [x + 1, y + share],
          [x + 1 - share, y + 1],
          [x, y + 1 - share],
        ][k]);
      }
      for (let k = 0; k + 1 < ends.length; k += 2) {
        segments.push(ends[k][0] + 0.5, ends[k][1] + 0.5, ends[k + 1][0] + 0.5, ends[k + 1][1] + 0.5);
      }
    }
  }
  return segments;
}

/**
 * What Python sends of an explanation; see `packing.py`. Bytes arrive as DataViews.
 * @typedef {{grid: number[], channels: number, scale: number, maps: DataView, splines: DataView[]}} Part
 * @typedef {{weights: DataView, scale?: number, elements?: DataView[], error?: string}} Row
 * @typedef {{model: string, verdict: string, how: string, clip: string, label: string | null,
 *   classes: string[], truth: number | null, probabilities: number[], order: number[],
 *   size: number[], times: number[], actions: {label: string, start: number, stop: number}[],
 *   boxes: (number[] | null)[][] | null, frames: DataView[], parts: Part[],
 *   answers: {times: number[], values: DataView} | null,
 *   weights: DataView | null, rows: Object<string, Row>}} Payload
 */

/** @param {DataView} view */
const floats = (view) => new Float32Array(copied(view));

/** @param {DataView} view */
const halfBits = (view) => new Uint16Array(copied(view));

/**
 * Bytes at an address that any typed array can begin at.
 * @param {DataView} view
 * @returns {ArrayBuffer}
 */
const copied = (view) =>
  /** @type {ArrayBuffer} */ (view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));

/** One explanation: maps and weights, from which any tube follows. */
export class Evidence {
  /** @param {Payload} payload */
  constructor(payload) {
    this.payload = payload;
    this.parts = payload.parts.map((part) => ({
      ...part,
      maps: fromHalf(halfBits(part.maps), part.scale),
      splines: part.splines.map(floats),
    }));
    this.features = this.parts.reduce((sum, part) => sum + part.channels, 0);
    this.all = payload.weights === null ? null : floats(payload.weights);
    this.answers = payload.answers ? floats(payload.answers.values) : null;
    /** @type {Map<number, {weights: Float32Array, elements: Float32Array[] | null}>} */
    this.rows = new Map();
    for (const [target, row] of Object.entries(payload.rows)) this.learn(Number(target), row);
  }

  /**
   * Take in the weights of one class.
   * @param {number} target
   * @param {Row} row
   */
  learn(target, row) {
    const elements = row.elements?.map((part) => fromHalf(halfBits(part), row.scale)) ?? null;
    this.rows.set(target, { weights: floats(row.weights), elements });
  }

  /**
   * (C,) one weight a feature, which τ is compared with; undefined while they are not here.
   * @param {number} target
   */
  weights(target) {
    if (this.all === null) return this.rows.get(target)?.weights;
    return this.all.subarray(target * this.features, (target + 1) * this.features);
  }

  /**
   * The probability of a class in each of the network's answers over time; null if it gives one for the clip.
   * @param {number} target
   * @returns {{time: number, probability: number}[] | null}
   */
  answerLine(target) {
    const { answers, payload } = this;
    if (answers === null || payload.answers === null) return null;
    return payload.answers.times.map((time, k) => ({ time, probability: answers[k * payload.classes.length + target] }));
  }

  /**
   * @param {number} target
   * @param {number | null} tau
   * @returns {Tube | null} null while the weights are not here
   */
  tube(target, tau) {
    const weights = this.weights(target);
    if (!weights) return null;
    let first = 0;
    let kept = 0;
    const maps = this.parts.map((part, n) => {
      const elements = this.rows.get(target)?.elements?.[n] ?? null;
      const result = weightedSum(part.maps, weights.subarray(first, first + part.channels), tau, elements);
      first += part.channels;
      kept += result.kept;
      return result.sum;
    });
    return this.#joined(maps, this.parts, kept, tau);
  }

  /**
   * The tube of a single feature (Fig. 1b).
   * @param {number} channel
   */
  featureTube(channel) {
    let place = channel;
    for (const part of this.parts) {
      const voxels = part.maps.length / part.channels;
      if (place < part.channels) {
        return this.#joined([part.maps.subarray(place * voxels, (place + 1) * voxels)], [part], 1, null);
      }
      place -= part.channels;
    }
    throw new RangeError(`feature ${channel}: there are ${this.features}`);
  }

  /**
   * @param {Float32Array[]} maps
   * @param {{grid: number[], splines: Float32Array[]}[]} parts
   * @param {number} kept
   * @param {number | null} tau
   * @returns {Tube}
   */
  #joined(maps, parts, kept, tau) {
    const { size } = this.payload;
    const volumes = parts.map((part, n) => upsample(maps[n], part.grid, part.splines, size));
    const values = volumes[0];
    for (const other of volumes.slice(1)) other.forEach((value, n) => (values[n] += value));
    const [low, high] = extremes(values);
    return { values, size, low, high, kept, tau };
  }

  /**
   * The features that contribute most to a class: weight times mean activation.
   * @param {number} target
   * @param {number} count
   */
  strongest(target, count) {
    const weights = this.weights(target);
    if (!weights) return [];
    const elements = this.rows.get(target)?.elements;
    /** @type {{channel: number, weight: number, contribution: number}[]} */
    const table = [];
    this.parts.forEach((part, n) => {
      const voxels = part.maps.length / part.channels;
      for (let j = 0; j < part.channels; j++) {
        const weight = weights[table.length];
        let sum = 0;
        for (let v = j * voxels; v < (j + 1) * voxels; v++) sum += part.maps[v] * (elements?.[n] ? elements[n][v] : weight);
        table.push({ channel: table.length, weight, contribution: sum / voxels });
      }
    });
    return table.sort((a, b) => b.contribution - a.contribution).slice(0, count);
  }
}

/**
 * The difference of two tubes, each scaled to [0, 1]; -1 to 1.
 * @param {Tube} first
 * @param {Tube} other of the same size
 * @returns {Tube}
 */
export function difference(first, other) {
  const scaled = (/** @type {Tube} */ tube) => 1 / (tube.high - tube.low || 1);
  const [a, b] = [scaled(first), scaled(other)];
  const values = first.values.map((value, n) => (value - first.low) * a - (other.values[n] - other.low) * b);
  return { values, size: first.size, low: -1, high: 1, kept: first.kept, tau: first.tau, signed: true };
}

// ---------------------------------------------------------------------------------------------- drawing

const LINES = ["#d1495b", "#2a9db0", "#d99a1c", "#8271c9"];
const LEVELS = [0.5, 0.7, 0.9];
const THICKNESS = [0.22, 0.45, 0.8];
const FOCUS_FLOOR = 20 / 255; // the authors scale the map to 20..255 and use it as brightness

/**
 * How a tube is shown: mode, share of the colours, 256 RGB colours, displayed range as shares of the tube's.
 * @typedef {{mode: string, opacity: number, table: Uint8Array, low: number, high: number}} Look
 */

/**
 * Write a frame with its saliency into `out`; both are RGBA.
 * @param {Uint8ClampedArray} out
 * @param {Uint8ClampedArray} pixels
 * @param {(n: number) => number} value the tube at a pixel
 * @param {Tube} tube
 * @param {Look} look
 */
export function paint(out, pixels, value, tube, look) {
  if (look.mode === "original" || look.mode === "contour") {
    out.set(pixels);
    return;
  }
  const span = (tube.high - tube.low) * (look.high - look.low);
  const from = tube.low + look.low * (tube.high - tube.low);
  const factor = span > 0 ? 1 / span : 0;
  const { opacity, table } = look;
  for (let n = 0, k = 0; k < pixels.length; n++, k += 4) {
    const share = Math.min(1, Math.max(0, (value(n) - from) * factor));
    if (look.mode === "focus") {
      const light = FOCUS_FLOOR + (1 - FOCUS_FLOOR) * share;
      for (let c = k; c < k + 3; c++) out[c] = light * pixels[c];
    } else {
      const color = 3 * Math.min(255, Math.floor(256 * share));
      for (let c = 0; c < 3; c++) out[k + c] = opacity * table[color + c] + (1 - opacity) * pixels[k + c];
    }
    out[k + 3] = 255;
  }
}

/**
 * The context of a canvas that is filled with computed pixels. Kept out of the GPU, where uploading them costs more
 * than drawing, and where they would wait for the volume.
 * @param {HTMLCanvasElement} canvas
 */
function context2d(canvas) {
  return /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
}

/**
 * Fit a canvas to a size in pixels of the page, sharp on any screen, and return its emptied context.
 * @param {HTMLCanvasElement} canvas
 * @param {number} width
 * @param {number} height
 */
function prepared(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) {
    canvas.width = w;
    canvas.height = h;
  }
  const context = context2d(canvas);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

/** @param {Uint8Array} table @param {number} share 0 to 1 */
function colorAt(table, share) {
  const n = 3 * Math.min(255, Math.max(0, Math.floor(256 * share)));
  return [table[n], table[n + 1], table[n + 2]];
}

/** @param {number} value @param {number} span */
export function rounded(value, span) {
  if (value === 0) return "0";
  const digits = Math.max(0, 2 - Math.floor(Math.log10(span || Math.abs(value))));
  return digits <= 5 ? value.toFixed(digits) : value.toExponential(1);
}

const percent = (/** @type {number} */ share) => `${(100 * share).toFixed(1)}%`;

/**
 * An element with attributes, listeners (`onclick: …`) and children. `label` is read aloud and shown as a
 * tooltip. Strings become text, never HTML.
 * @param {string} tag
 * @param {Object<string, any>} [options]
 * @param {...(Node | string | null)} children
 * @returns {any}
 */
function make(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "label") {
      element.setAttribute("aria-label", value);
      element.title = value;
    } else if (name === "value" || name === "checked" || name === "disabled" || name === "hidden") {
      /** @type {any} */ (element)[name] = value;
    } else if (value !== null) element.setAttribute(name, value);
  }
  // JupyterLab looks for this on whatever has the focus; else it takes the keys.
  if (element.tabIndex >= 0) element.setAttribute("data-lm-suppress-shortcuts", "true");
  element.append(...children.filter((child) => child !== null).map((child) => child ?? ""));
  return element;
}

/** One explanation on the screen: caption, overlay with its colour bar, and volume. */
class Panel {
  /**
   * @param {Payload} payload
   * @param {string} title
   * @param {string} color of its line in the timeline
   */
  constructor(payload, title, color) {
    this.payload = payload;
    this.title = title;
    this.color = color;
    /** @type {ImageData[]} */
    this.frames = [];
    /** @type {ImageData[]} */
    this.thumbs = [];
    /** @type {Tube | null} */
    this.tube = null;
    /** @type {{tube: Tube, line: Float32Array} | null} */
    this.profiled = null;
    const [, height, width] = payload.size;
    this.buffer = document.createElement("canvas");
    this.buffer.width = width;
    this.buffer.height = height;
    this.canvas = make("canvas", { class: "wb-overlay", role: "img", "aria-label": title });
    this.canvas.style.aspectRatio = `${width} / ${height}`;
    this.canvas.style.maxWidth = `${Math.round((430 * width) / height)}px`;
    this.bar = make("canvas", { class: "wb-bar", role: "img", "aria-label": "colour bar of the overlay" });
    this.volume = make("div", { class: "wb-volume" }, make("span", { class: "wb-wait" }, "drawing the volume …"));
    this.key = make("canvas", { class: "wb-key", role: "img", "aria-label": "colour bar of the volume" });
    this.waiting = make("div", { class: "wb-wait", role: "status", hidden: true });
    this.caption = make("div", { class: "wb-caption" });
    this.element = make(
      "figure",
      { class: "wb-panel" },
      this.caption,
      make("div", { class: "wb-picture" }, this.canvas, this.bar, this.waiting),
      make("div", { class: "wb-solid" }, this.volume, this.key),
    );
    this.solid = new Solid(this);
  }

  /** The profile of the tube; computed when it is drawn, which the overlay does not wait for. */
  get profile() {
    const { tube } = this;
    if (!tube) return null;
    if (this.profiled?.tube !== tube) this.profiled = { tube, line: profile(tube) };
    return this.profiled.line;
  }

  /** Turn the JPEGs into pixels. */
  async load() {
    const [, height, width] = this.payload.size;
    const scale = 72 / Math.max(height, width);
    const small = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
    const pixels = document.createElement("canvas");
    const context = context2d(pixels);
    for (const jpeg of this.payload.frames) {
      const bitmap = await createImageBitmap(new Blob([copied(jpeg)], { type: "image/jpeg" }));
      for (const [list, w, h] of /** @type {[ImageData[], number, number][]} */ ([
        [this.frames, width, height],
        [this.thumbs, small[0], small[1]],
      ])) {
        [pixels.width, pixels.height] = [w, h];
        context.drawImage(bitmap, 0, 0, w, h);
        list.push(context.getImageData(0, 0, w, h));
      }
      bitmap.close();
    }
  }

  /**
   * Draw a frame as a look has it, with boxes and contours, scaled to a width and height.
   * @param {CanvasRenderingContext2D} context
   * @param {number} frame
   * @param {Look & {boxes: boolean}} look
   * @param {number} width
   * @param {number} height
   */
  drawFrame(context, frame, look, width, height) {
    const { tube } = this;
    const [, H, W] = this.payload.size;
    if (!tube || !this.frames[frame]) return;
    const image = new ImageData(W, H);
    const first = frame * H * W;
    paint(image.data, this.frames[frame].data, (n) => tube.values[first + n], tube, look);
    context2d(this.buffer).putImageData(image, 0, 0);
    context.imageSmoothingQuality = "high";
    context.drawImage(this.buffer, 0, 0, width, height);
    const [sx, sy] = [width / W, height / H];
    if (look.mode === "contour") {
      const slice = tube.values.subarray(first, first + H * W);
      for (const level of LEVELS) {
        const lines = contours(slice, H, W, tube.low + level * (tube.high - tube.low));
        const [r, g, b] = colorAt(look.table, shownShare(level, look));
        context.beginPath();
        for (let n = 0; n < lines.length; n += 4) {
          context.moveTo(lines[n] * sx, lines[n + 1] * sy);
          context.lineTo(lines[n + 2] * sx, lines[n + 3] * sy);
        }
        for (const [style, wide] of /** @type {[string, number][]} */ ([["rgba(0,0,0,.6)", 4], [`rgb(${r},${g},${b})`, 2]])) {
          context.strokeStyle = style;
          context.lineWidth = wide;
          context.stroke();
        }
      }
    }
    for (const box of (look.boxes && this.payload.boxes?.[frame]) || []) {
      if (!box) continue;
      for (const [style, wide] of /** @type {[string, number][]} */ ([["rgba(0,0,0,.6)", 4], ["#fff", 2]])) {
        context.strokeStyle = style;
        context.lineWidth = wide;
        context.strokeRect(box[0] * sx, box[1] * sy, (box[2] - box[0]) * sx, (box[3] - box[1]) * sy);
      }
    }
  }

  /**
   * @param {number} frame
   * @param {Look & {boxes: boolean}} look
   * @param {string} ink
   */
  draw(frame, look, ink) {
    const [, H, W] = this.payload.size;
    const width = this.canvas.clientWidth || 320;
    const height = (width * H) / W;
    this.drawFrame(prepared(this.canvas, width, height), frame, look, width, height);
    this.canvas.setAttribute("aria-label", `${this.title}: frame ${frame}, ${look.mode}`);
    if (this.tube) this.drawBar(look, ink);
  }

  /** @param {Look} look @param {string} ink */
  drawBar(look, ink) {
    const { tube, bar } = this;
    if (!tube) return;
    const [width, height] = [bar.clientWidth || 60, bar.clientHeight || 300];
    const context = prepared(bar, width, height);
    const [top, bottom] = [22, height - 10];
    for (let y = top; y < bottom; y++) {
      const share = (bottom - 1 - y) / (bottom - top - 1);
      const light = 255 * (FOCUS_FLOOR + (1 - FOCUS_FLOOR) * share);
      const color = look.mode === "focus" ? [light, light, light] : colorAt(look.table, share);
      context.fillStyle = `rgb(${color.join(",")})`;
      context.fillRect(2, y, 12, 1.5);
    }
    context.fillStyle = ink;
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    context.fillText(tube.signed ? "A − B" : "Σ y·a", 2, 8);
    const span = tube.high - tube.low;
    for (let n = 0; n <= 4; n++) {
      const share = n / 4;
      const value = tube.low + span * (look.low + share * (look.high - look.low));
      const y = bottom - share * (bottom - top);
      context.fillRect(14, y - 0.5, 4, 1);
      context.fillText(rounded(value, span), 21, y);
    }
  }

  /** @param {Look} look @param {string} ink */
  drawKey(look, ink) {
    const [width, height] = [this.key.clientWidth || 300, 30];
    const context = prepared(this.key, width, height);
    const [left, right] = [74, width - 24];
    for (let x = left; x < right; x++) {
      context.fillStyle = `rgb(${colorAt(look.table, shownShare((x - left) / (right - left), look)).join(",")})`;
      context.fillRect(x, 2, 1.5, 10);
    }
    context.fillStyle = ink;
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    context.fillText(this.tube?.signed ? "A − B" : "saliency ≥", 4, 8);
    context.textAlign = "center";
    const marks = this.tube?.signed ? [[0.1, "-0.8"], [0.3, "-0.4"], [0.7, "0.4"], [0.9, "0.8"]] : LEVELS.map((level) => [level, String(level)]);
    for (const [level, text] of /** @type {[number, string][]} */ (marks)) {
      const x = left + level * (right - left);
      context.fillRect(x - 0.5, 0, 1.5, 16);
      context.fillText(text, x, 24);
    }
    context.textAlign = "start";
  }
}

/** Where a share of the tube's range lies in the displayed range. @param {number} share @param {Look} look */
function shownShare(share, look) {
  return Math.min(1, Math.max(0, (share - look.low) / (look.high - look.low || 1)));
}

// ----------------------------------------------------------------------------------------------- volume

/** @type {any} */
const shared = globalThis;

/**
 * Plotly, once for the page however many explorers there are.
 * @param {() => Promise<Uint8Array<ArrayBuffer>>} fetchCode gzipped plotly.js
 */
function loadPlotly(fetchCode) {
  shared.workbenchPlotly ??= (async () => {
    const packed = new Blob([await fetchCode()]).stream().pipeThrough(new DecompressionStream("gzip"));
    const code = await new Response(packed).text();
    // As a module it meets no AMD loader of the page, and `window.Plotly` of others stays theirs.
    const others = shared.Plotly;
    const source = `const module = { exports: {} }, exports = module.exports, define = undefined;\n${code}\nexport default module.exports;`;
    const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    try {
      return (await import(address)).default;
    } finally {
      URL.revokeObjectURL(address);
      if (others) shared.Plotly = others;
    }
  })();
  return shared.workbenchPlotly;
}

/**
 * @typedef {{x: number, y: number, z: number}} Point
 * @typedef {{eye: Point, center: Point, up?: Point}} Camera
 */

/** What a volume's camera looks at, in Plotly's units, and from which side: the near face of a cube of width 1 fits. */
const MIDDLE = { x: -0.113, y: 0.075, z: -0.2 };
const SIDE = { x: -1.07, y: -1.9, z: 1.02 };

/**
 * How many times as far back a camera stands as in a wide box. The axis title on the left keeps its size on the screen,
 * however narrow the box, so that half a box has 64 pixels less for the volume.
 * @param {number} width in pixels
 * @param {number} height
 */
export function standBack(width, height) {
  return Math.min(3, Math.max(1, (0.88 * height) / Math.max(1, width - 128)));
}

/**
 * Move a camera along the line through what it looks at.
 * @param {Camera} camera
 * @param {number} factor of the distance
 * @returns {Camera}
 */
export function dollied(camera, factor) {
  const { eye, center } = camera;
  const place = (/** @type {"x" | "y" | "z"} */ axis) => center[axis] + factor * (eye[axis] - center[axis]);
  return { ...camera, eye: { x: place("x"), y: place("y"), z: place("z") } };
}

const HAIR = 0.003; // Plotly cuts off what lies on the very edge of a range
const PICTURE = 48; // pixels along the longer side of the frame in the volume
const GRID = 24; // samples along an axis for the surfaces

/** The volume of one panel in a Plotly figure that is made once and changed in place. */
class Solid {
  /** @param {Panel} panel */
  constructor(panel) {
    this.panel = panel;
    /** @type {any} */
    this.Plotly = null;
    /** @type {{tube: Tube | null, frame: number, look: Look | null}} what the scene has been given */
    this.given = { tube: null, frame: -1, look: null };
    /** @type {any[]} traces whose change is not on the screen yet */
    this.waiting = [];
    this.unpicked = false;
    this.size = "";
    this.away = 1; // what `standBack` said for the box that the camera stands in
  }

  get made() {
    return this.Plotly !== null;
  }

  /**
   * @param {any} Plotly
   * @param {number} frame
   * @param {Look} look
   * @param {{ink: string, soft: string, line: string}} theme
   */
  async make(Plotly, frame, look, theme) {
    const { volume } = this.panel;
    const silent = { hoverinfo: "skip", showlegend: false };
    const light = { ambient: 0.72, diffuse: 0.5, specular: 0.25, roughness: 0.4, fresnel: 0.15, facenormalsepsilon: 0, vertexnormalsepsilon: 0 };
    const flat = { ambient: 1, diffuse: 0, specular: 0, fresnel: 0, facenormalsepsilon: 0 };
    const traces = [
      { type: "mesh3d", ...this.surfaces(look), name: "saliency", opacity: 0.999, showscale: false, cmin: 0, cmax: 1, flatshading: false, lighting: light, lightposition: { x: -4000, y: -6000, z: 9000 }, hovertemplate: "%{x:.2f}, column %{y:.0f}, row %{z:.0f}<extra></extra>" },
      { type: "mesh3d", ...this.picture(frame), name: "frame", lighting: flat, ...silent },
      { type: "scatter3d", mode: "lines", ...this.rim(frame), name: "rim", line: { color: theme.ink, width: 4 }, ...silent },
      { type: "scatter3d", mode: "lines", ...this.outline(), name: "outline", line: { color: theme.soft, width: 2 }, ...silent },
    ];
    volume.replaceChildren();
    this.given = { tube: this.panel.tube, frame, look };
    this.measure();
    await Plotly.newPlot(volume, traces, this.layout(theme), {
      displaylogo: false,
      responsive: false,
      plotGlPixelRatio: Math.min(2, window.devicePixelRatio || 1),
      modeBarButtonsToRemove: ["toImage", "tableRotation", "hoverClosest3d", "resetCameraLastSave3d", "resetCameraDefault3d"],
      // Plotly's own goes to Plotly's camera, which sees the frames from behind.
      modeBarButtonsToAdd: [{ name: "home", title: "turn the volume back", icon: Plotly.Icons.home, click: () => this.turnBack() }],
    });
    this.Plotly = Plotly;
    volume.addEventListener("pointermove", () => this.pick());
  }

  /** @param {{ink: string, soft: string, line: string}} theme */
  layout(theme) {
    const [, H, W] = this.panel.payload.size;
    const [start, stop] = timeEnds(this.panel.payload.times);
    const spare = HAIR * (stop - start);
    const longer = Math.max(H, W);
    const axis = (/** @type {string} */ title, /** @type {number[]} */ range, nticks = 5) => ({
      title: { text: title, font: { size: 11, color: theme.ink } }, range, nticks, autorange: false, showbackground: false,
      showspikes: false, zeroline: false, showline: false, gridcolor: theme.line, tickfont: { size: 10, color: theme.soft },
    });
    // Both picture axes are reversed: the scene stays right-handed and the frame is not mirrored.
    return {
      scene: {
        xaxis: axis("time (s)", [start - spare, stop + spare], 7),
        yaxis: axis("width (px)", [(1 + HAIR) * W, -HAIR * W], 4),
        zaxis: axis("height (px)", [(1 + HAIR) * H, -HAIR * H], 4),
        aspectmode: "manual",
        aspectratio: { x: 1.5, y: W / longer, z: H / longer },
        camera: this.home,
        dragmode: "orbit",
        uirevision: "volume",
      },
      uirevision: "volume",
      margin: { l: 0, r: 0, t: 0, b: 0 },
      paper_bgcolor: "rgba(0,0,0,0)",
      autosize: true,
    };
  }

  /** @param {Look} look */
  surfaces(look) {
    const { tube, payload } = this.panel;
    if (!tube) return { x: [], y: [], z: [], i: [], j: [], k: [], intensity: [] };
    const samples = samplesOf(tube, payload.times, GRID);
    const meshes = tube.signed ? signedMeshes(samples) : LEVELS.map((level) => ({ level, mesh: surfaceNets(samples, level) }));
    return { ...joinedMesh(meshes), colorscale: scaleOf(tube, look) };
  }

  /** @param {number} frame */
  picture(frame) {
    const { payload, thumbs } = this.panel;
    const [, H, W] = payload.size;
    const image = thumbs[frame];
    if (!image) return { x: [], y: [], z: [], i: [], j: [], k: [] };
    const scale = Math.min(1, PICTURE / Math.max(image.width, image.height));
    const [columns, rows] = [Math.round(image.width * scale), Math.round(image.height * scale)];
    const place = (/** @type {number} */ n, /** @type {number} */ count, /** @type {number} */ size) =>
      n === 0 ? 0 : n === count + 1 ? size : ((n - 0.5) * size) / count;
    const y = [];
    const z = [];
    const vertexcolor = [];
    const [i, j, k] = [[], [], []].map((list) => /** @type {number[]} */ (list));
    for (let r = 0; r < rows + 2; r++) {
      for (let c = 0; c < columns + 2; c++) {
        const row = Math.min(image.height - 1, Math.floor((Math.min(Math.max(r - 1, 0), rows - 1) + 0.5) / scale));
        const column = Math.min(image.width - 1, Math.floor((Math.min(Math.max(c - 1, 0), columns - 1) + 0.5) / scale));
        const n = 4 * (row * image.width + column);
        vertexcolor.push(`rgb(${image.data[n]},${image.data[n + 1]},${image.data[n + 2]})`);
        y.push(place(c, columns, W));
        z.push(place(r, rows, H));
        if (r === 0 || c === 0) continue;
        const here = r * (columns + 2) + c;
        const above = here - columns - 2;
        i.push(above - 1, above);
        j.push(above, here);
        k.push(here - 1, here - 1);
      }
    }
    return { x: new Float32Array(y.length).fill(payload.times[frame]), y, z, i, j, k, vertexcolor };
  }

  /** @param {number} frame */
  rim(frame) {
    const [, H, W] = this.panel.payload.size;
    return { x: new Array(5).fill(this.panel.payload.times[frame]), y: [0, W, W, 0, 0], z: [0, 0, H, H, 0] };
  }

  outline() {
    const [, H, W] = this.panel.payload.size;
    const ends = [timeEnds(this.panel.payload.times), [0, W], [0, H]];
    /** @type {(number | null)[][]} */
    const points = [];
    for (let axis = 0; axis < 3; axis++) {
      for (const corner of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
        for (const end of [0, 1]) {
          const place = [...corner];
          place.splice(axis, 0, end);
          points.push(place.map((n, k) => ends[k][n]));
        }
        points.push([null, null, null]);
      }
    }
    return Object.fromEntries(["x", "y", "z"].map((name, k) => [name, points.map((point) => point[k])]));
  }

  /** Plotly's scene and what it draws with; undefined if a release of Plotly has them no more. */
  get scene() {
    const scene = this.panel.volume._fullLayout.scene?._scene;
    return scene?.traces && scene.glplot?.objects && scene.glplot.redraw ? scene : undefined;
  }

  /**
   * Give the scene what has changed, without drawing it. `Plotly.restyle` would work out every trace of the figure
   * again, which takes three times as long.
   * @param {number} frame
   * @param {Look} look
   */
  prepare(frame, look) {
    const { tube } = this.panel;
    const { given } = this;
    const recolored = ["table", "low", "high"].some((name) => /** @type {any} */ (look)[name] !== /** @type {any} */ (given.look)?.[name]);
    const changes = [];
    if (tube !== given.tube || recolored) changes.push({ trace: 0, ...this.surfaces(look) });
    if (frame !== given.frame) changes.push({ trace: 1, ...this.picture(frame) }, { trace: 2, x: this.rim(frame).x });
    this.given = { tube, frame, look };
    const { data, _fullData: full } = this.panel.volume;
    for (const { trace, ...values } of changes) {
      Object.assign(data[trace], values);
      Object.assign(full[trace], values);
      this.scene?.traces[full[trace].uid]?.update(full[trace]);
    }
    this.waiting.push(...changes);
    // Plotly would also draw everything into the buffer that says what the mouse points at, and wait for the
    // pixels: `pick` does so when there is a mouse.
    for (const object of this.scene?.glplot.objects ?? []) object.dirty = false;
  }

  /** Draw what `prepare` has given the scene. */
  async show() {
    const changes = this.waiting.splice(0);
    if (!changes.length) return;
    if (this.scene) {
      this.scene.glplot.redraw();
      this.unpicked = true;
      return;
    }
    for (const { trace, ...values } of changes) {
      const update = Object.fromEntries(Object.entries(values).map(([name, value]) => [name, [value]]));
      await this.Plotly.restyle(this.panel.volume, update, [trace]);
    }
  }

  /** Bring what the mouse can point at up to what is on the screen. */
  pick() {
    if (!this.unpicked) return;
    this.unpicked = false;
    this.scene?.glplot.update();
  }

  /** Take the box's measures; returns how many times as far back the camera must stand as before. */
  measure() {
    const { clientWidth, clientHeight } = this.panel.volume;
    const before = this.away;
    this.size = `${clientWidth}×${clientHeight}`;
    this.away = standBack(clientWidth, clientHeight);
    return this.away / before;
  }

  /** The camera before anyone has turned it. @returns {Camera} */
  get home() {
    const { x, y, z } = MIDDLE;
    return dollied({ center: MIDDLE, eye: { x: x + SIDE.x, y: y + SIDE.y, z: z + SIDE.z } }, this.away);
  }

  /** The camera as the user has turned it. @returns {Camera} */
  get camera() {
    return this.scene?.getCamera?.() ?? this.panel.volume._fullLayout.scene.camera;
  }

  turnBack() {
    return this.Plotly.relayout(this.panel.volume, { "scene.camera": { ...this.home, up: { x: 0, y: 0, z: 1 } } });
  }

  /** Look as another volume's camera does, from as far as this box needs. @param {Solid} other */
  async follow(other) {
    await this.Plotly.relayout(this.panel.volume, { "scene.camera": dollied(other.camera, this.away / other.away) });
  }

  /** Fit the figure to its box: in a narrower one the camera stands further back, on the side where the user put it. */
  async resize() {
    const { clientWidth, clientHeight } = this.panel.volume;
    if (!this.made || !clientWidth || this.size === `${clientWidth}×${clientHeight}`) return;
    const camera = dollied(this.camera, this.measure());
    await this.Plotly.relayout(this.panel.volume, { width: clientWidth, height: clientHeight, "scene.camera": camera });
  }

  free() {
    if (this.made) this.Plotly.purge(this.panel.volume);
  }
}

/**
 * Surfaces of a difference, whose zero lies at 0.5: strong ones are darker.
 * @param {Samples} samples
 */
function signedMeshes(samples) {
  const [T, H, W] = samples.dims;
  // The shell of zeros would be read as "far below": outside there is no difference.
  const inner = (/** @type {number} */ n) => {
    const [a, b, c] = [Math.floor(n / (H * W)), Math.floor(n / W) % H, n % W];
    return a > 0 && a < T - 1 && b > 0 && b < H - 1 && c > 0 && c < W - 1;
  };
  const positive = { ...samples, values: samples.values.map((value, n) => (inner(n) ? value : 0)) };
  const negative = { ...samples, values: samples.values.map((value, n) => (inner(n) ? 1 - value : 0)) };
  return [0.7, 0.9].flatMap((level) => [
    { level, mesh: surfaceNets(positive, level) },
    { level: 1 - level, mesh: surfaceNets(negative, level) },
  ]);
}

/**
 * One mesh for all levels: fewer draw calls than a trace each.
 * @param {{level: number, mesh: Mesh}[]} parts
 */
function joinedMesh(parts) {
  const vertices = parts.reduce((sum, part) => sum + part.mesh.positions.length / 3, 0) || 3;
  const faces = parts.reduce((sum, part) => sum + part.mesh.triangles.length / 3, 0) || 1;
  const [x, y, z, intensity] = [0, 0, 0, 0].map(() => new Float32Array(vertices));
  const [i, j, k] = [0, 0, 0].map(() => new Int32Array(faces));
  let vertex = 0;
  let face = 0;
  for (const { level, mesh } of parts) {
    for (let n = 0; n < mesh.triangles.length; n += 3, face++) {
      i[face] = vertex + mesh.triangles[n];
      j[face] = vertex + mesh.triangles[n + 1];
      k[face] = vertex + mesh.triangles[n + 2];
    }
    for (let n = 0; n < mesh.positions.length; n += 3, vertex++) {
      x[vertex] = mesh.positions[n];
      y[vertex] = mesh.positions[n + 1];
      z[vertex] = mesh.positions[n + 2];
      intensity[vertex] = level;
    }
  }
  return { x, y, z, i, j, k, intensity };
}

/**
 * A Plotly colour scale whose opacity grows with the level, as the nested surfaces need it.
 * @param {Tube} tube
 * @param {Look} look
 */
function scaleOf(tube, look) {
  return Array.from({ length: 41 }, (_, n) => {
    const level = n / 40;
    const strength = tube.signed ? 2 * Math.abs(level - 0.5) : level;
    const nearestLevel = nearest(LEVELS, strength);
    const [r, g, b] = colorAt(look.table, shownShare(level, look));
    return [level, `rgba(${r},${g},${b},${THICKNESS[nearestLevel]})`];
  });
}

// ------------------------------------------------------------------------------------------ application

const STEPS = 200; // of the τ slider, as in Python
const MODES = { heat: "colours over the frame", focus: "the frame dimmed outside the tube", contour: "lines at 0.5, 0.7 and 0.9", original: "the frame alone" };
const KEYS = [
  ["← →", "one frame back or on"],
  ["Home End", "first or last frame"],
  ["space", "play or stop"],
  ["+ −", "raise or lower τ"],
  ["1 … 9", "the first, second … most probable class"],
  ["m", "next overlay mode"],
  ["n p", "next or previous clip (data sets)"],
  ["?", "this help"],
  ["Esc", "close the help, or go back from a single feature"],
];
/** What is kept the same here and in Python: names of the widget's traits. */
const SYNCED = ["choice", "tau", "frame", "feature", "mode", "opacity", "colormap", "low", "high", "boxes", "search", "unit", "compare"];

/**
 * Where the application runs. `kernel` is false in a saved page; links and listeners do not hear of `unannounced` names.
 * @typedef {{kernel: boolean, get: (name: string) => any, set: (changes: Object<string, any>, unannounced?: string[]) => void,
 *   listen: (name: string, call: (value: any) => void) => void, plotly: () => Promise<Uint8Array<ArrayBuffer>>,
 *   ask: (question: Object<string, any>, buffers?: ArrayBuffer[]) => Promise<{content: any, buffers: DataView<ArrayBuffer>[]}>}} Host
 */

export class Explorer {
  /**
   * @param {HTMLElement} root
   * @param {Host} host
   */
  constructor(root, host) {
    this.root = root;
    this.host = host;
    /** @type {any} */
    this.state = Object.fromEntries(SYNCED.map((name) => [name, host.get(name)]));
    this.tables = Object.fromEntries(
      Object.entries(host.get("colormaps")).map(([name, bytes]) => [name, new Uint8Array(copied(/** @type {DataView} */ (bytes)))]),
    );
    /** @type {Evidence[]} */
    this.evidence = host.get("explanations").map((/** @type {Payload} */ payload) => new Evidence(payload));
    this.first = this.evidence[0];
    const names = titles(this.evidence.map((one) => one.payload.model));
    this.panels = this.evidence.map((one, n) => new Panel(one.payload, names[n], LINES[n]));
    if (this.comparable) this.panels.push(new Panel(this.first.payload, `difference: ${names.join(" − ")}`, LINES[3]));
    /** @type {{ink: string, soft: string, line: string, accent: string, paper: string}} */
    this.theme = { ink: "rgb(43,47,54)", soft: "rgb(110,118,128)", line: "rgb(225,228,232)", accent: "rgb(25,118,210)", paper: "rgb(255,255,255)" };
    this.updateTheme = () => {};
    this.thumb = document.createElement("canvas");
    /** @type {HTMLElement[]} one for each class, most probable first */
    this.items = [];
    /** @type {string | undefined} choice and search of the list on the screen */
    this.listed = undefined;
    this.share = 1;
    this.loaded = false; // the frames
    this.stale = true; // the tubes
    this.queued = 0;
    /** @type {any} */
    this.detailsQueued = 0;
    this.lastDraw = 0;
    this.lastInput = 0;
    this.rapid = false;
    this.lastVolume = 0;
    this.volumeCost = 0;
    this.drawing = false;
    this.playing = false;
    this.held = false;
    /** @type {Set<string>} */
    this.asked = new Set();
    /** @type {Set<string>} */
    this.unsent = new Set();
    /** @type {(() => void)[]} */
    this.closing = [];
    this.build();
    for (const name of SYNCED) host.listen(name, (value) => this.receive(name, value));
    host.listen("note", (text) => this.say(text));
    this.say(host.get("note"));
    this.started = this.start();
  }

  /** Whether the difference of two tubes makes sense: the same frames. */
  get comparable() {
    const [a, b] = this.evidence.map((one) => one.payload);
    return this.evidence.length === 2 && String(a.size) === String(b.size) && String(a.times) === String(b.times);
  }

  get target() {
    return this.first.payload.order[this.state.choice];
  }

  get weights() {
    return this.first.weights(this.target);
  }

  /** τ, or null at the left end of the class's weights, which keeps all features. */
  get tau() {
    const weights = this.weights;
    if (!weights) return null;
    const [low, high] = extremes(weights);
    return this.state.tau > low + (1e-3 * (high - low || 1)) / STEPS ? this.state.tau : null;
  }

  get times() {
    return this.first.payload.times;
  }

  /** @returns {Look & {boxes: boolean}} */
  get look() {
    const { mode, opacity, colormap, low, high, boxes } = this.state;
    return { mode, opacity, table: this.tables[colormap], low, high, boxes };
  }

  // Building

  build() {
    const { payload } = this.first;
    const { root } = this;
    root.classList.add("wb");
    root.tabIndex = 0;
    root.setAttribute("role", "group");
    root.setAttribute("aria-label", `Explorer of ${payload.clip}`);
    root.setAttribute("data-lm-suppress-shortcuts", "true");
    this.note = make("div", { class: "wb-note", role: "alert", hidden: true });
    this.main = make("div", { class: `wb-panels wb-count-${this.evidence.length}` }, ...this.panels.map((panel) => panel.element));
    this.side = make("div", { class: "wb-side" }, this.buildClasses(), this.buildTau(), this.buildFeatures());
    const label = payload.label === null ? "" : `, labelled ${payload.label}`;
    root.replaceChildren(
      make("div", { class: "wb-head" }, make("bdi", { class: "wb-title" }, `${payload.clip}${label}`), this.buildExports(),
        make("button", { class: "wb-round", label: "keys and help (?)", onclick: () => this.help(true) }, "?")),
      this.note,
      make("div", { class: `wb-body ${this.evidence.length > 1 ? "wb-compared" : ""}` }, this.side,
        make("div", { class: "wb-main" }, this.buildLooks(), this.main, this.buildPlay(), this.buildTimeline())),
      this.buildHelp(),
    );
    const onKey = (/** @type {KeyboardEvent} */ event) => this.onKey(event);
    root.addEventListener("keydown", onKey);
    const hold = () => (this.held = true);
    const release = () => ((this.held = false), this.commitLater(0));
    const ends = ["pointerup", "pointercancel", "keyup"];
    for (const name of ["pointerdown", "keydown"]) root.addEventListener(name, hold, true);
    for (const name of ends) window.addEventListener(name, release, true);
    this.closing.push(() => ends.forEach((name) => window.removeEventListener(name, release, true)));
    this.watchSize();
    this.watchTheme();
  }

  buildClasses() {
    const { payload } = this.first;
    this.search = make("input", { class: "wb-search", type: "search", placeholder: `search ${payload.classes.length} classes`, label: "search the classes", value: this.state.search,
      oninput: () => this.change({ search: this.search.value }) });
    this.list = make("ul", { class: "wb-classes", role: "listbox", tabindex: "0", "aria-label": "classes by probability",
      onkeydown: (/** @type {KeyboardEvent} */ event) => {
        if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
        event.preventDefault();
        event.stopPropagation();
        this.stepClass(event.key === "ArrowDown" ? 1 : -1);
      } });
    this.items = payload.order.map((target, choice) => {
      const share = payload.probabilities[target];
      const known = this.host.kernel || this.first.weights(target) !== undefined;
      const truth = target === payload.truth;
      const name = payload.classes[target];
      const item = make("li", { role: "option", class: truth ? "wb-truth" : null, "aria-disabled": String(!known),
        label: `${name}, ${percent(share)}${truth ? ", the label of the clip" : ""}${known ? "" : ": its gradients are not in this page"}`,
        onclick: () => known && this.change({ choice }) },
        make("span", { class: "wb-fill", style: `width:${100 * share}%` }), make("span", { class: "wb-share" }, percent(share)),
        make("bdi", { class: "wb-name" }, name), truth ? make("span", { class: "wb-tag" }, "true class") : null);
      return item;
    });
    this.list.append(...this.items);
    return make("section", { class: "wb-block" }, make("h4", {}, "class"), this.search, this.list);
  }

  buildTau() {
    this.slider = make("input", { type: "range", class: "wb-tau", min: 0, max: STEPS, step: 1, label: "τ: keep the features whose class weight is at least this (+ and − keys)",
      oninput: () => this.moveTau(Number(this.slider.value)) });
    this.bars = make("canvas", { class: "wb-histogram", role: "img", "aria-label": "histogram of the class weights" });
    this.kept = make("div", { class: "wb-kept", role: "status" });
    this.units = choices(this, "unit", { weight: "τ in the units of the class weights", share: "τ as the share of features kept" });
    return make("section", { class: "wb-block" }, make("h4", {}, "τ ", this.units), this.slider, this.bars, this.kept);
  }

  buildFeatures() {
    this.table = make("tbody");
    this.back = make("button", { class: "wb-back", label: "back to the tube of the class (Esc)", hidden: true, onclick: () => this.change({ feature: null }) }, "back to the class");
    const head = make("tr", {}, ...["feature", "weight", "contribution"].map((name) => make("th", { scope: "col" }, name)));
    return make("section", { class: "wb-block wb-features" }, make("h4", {}, "strongest features ", this.back),
      make("table", { "aria-label": "strongest features: click one to see its own tube" }, make("thead", {}, head), this.table));
  }

  buildLooks() {
    const range = (/** @type {string} */ name, /** @type {string} */ label) =>
      make("input", { type: "number", class: "wb-number", min: 0, max: 100, step: 5, label, value: Math.round(100 * this.state[name]),
        oninput: (/** @type {Event} */ event) => this.setRange(name, Number(/** @type {HTMLInputElement} */ (event.target).value) / 100),
        onblur: () => this.refreshControls() });
    this.low = range("low", "lower end of the displayed range, in % of the tube's range");
    this.high = range("high", "upper end of the displayed range, in % of the tube's range");
    this.opacity = make("input", { type: "range", class: "wb-opacity", min: 0, max: 1, step: 0.05, value: this.state.opacity, label: "opacity of the colours in heat mode",
      oninput: () => this.change({ opacity: Number(this.opacity.value) }) });
    this.colormap = make("select", { label: "colormap", onchange: () => this.change({ colormap: this.colormap.value }) },
      ...Object.keys(this.tables).map((name) => make("option", { value: name }, name === "jet" ? "jet (paper)" : name)));
    this.boxes = make("input", { type: "checkbox", checked: this.state.boxes, label: "draw the annotated boxes", onchange: () => this.change({ boxes: this.boxes.checked }) });
    this.compare = make("input", { type: "checkbox", checked: this.state.compare === "difference", label: "show the difference of the two tubes",
      onchange: () => this.change({ compare: this.compare.checked ? "difference" : "side" }) });
    const boxed = this.evidence.some((one) => one.payload.boxes !== null);
    return make("div", { class: "wb-looks", role: "toolbar", "aria-label": "overlay" },
      (this.modes = choices(this, "mode", MODES)),
      make("label", {}, "opacity", this.opacity), make("label", {}, "colours", this.colormap),
      make("span", { class: "wb-range" }, "range", this.low, "–", this.high, "%"),
      boxed ? make("label", {}, this.boxes, "boxes") : null,
      this.comparable ? make("label", {}, this.compare, "difference") : null);
  }

  buildPlay() {
    const last = this.times.length - 1;
    this.playButton = make("button", { class: "wb-play", label: "play or stop (space)", onclick: () => this.play(!this.playing) }, "▶");
    this.frameSlider = make("input", { type: "range", class: "wb-frame", min: 0, max: last, step: 1, label: "frame (arrow keys)",
      oninput: () => this.change({ frame: Number(this.frameSlider.value) }) });
    this.strip = make("canvas", { class: "wb-strip", role: "img", "aria-label": "saliency of each frame" });
    this.clock = make("output", { class: "wb-clock", "aria-label": "frame and time" });
    this.speed = make("select", { label: "speed of playing" }, ...[["1", "1×"], ["0.5", "½×"], ["0.25", "¼×"], ["0.125", "⅛×"]].map(([value, text]) => make("option", { value }, text)));
    this.film = make("canvas", { class: "wb-film", role: "img", label: "filmstrip: click a frame to go there",
      onclick: (/** @type {MouseEvent} */ event) => this.change({ frame: this.filmFrame(event.offsetX) }) });
    return make("div", { class: "wb-player" },
      make("div", { class: "wb-playrow" }, this.playButton, make("div", { class: "wb-track" }, this.strip, this.frameSlider), this.clock, this.speed), this.film);
  }

  buildTimeline() {
    const seek = (/** @type {PointerEvent} */ event) => {
      if (event.buttons !== 1) return;
      const [start, stop] = this.timeRange();
      const [left, right] = this.plotEdges();
      this.change({ frame: nearest(this.times, start + ((event.offsetX - left) / (right - left)) * (stop - start)) });
    };
    this.timeline = make("canvas", { class: "wb-timeline", role: "img", label: `mean saliency over time${this.first.answers ? ", and dashed the probability of the class in each answer of the network" : ""}: click or drag to seek`, onpointerdown: seek, onpointermove: seek });
    return this.timeline;
  }

  buildExports() {
    const one = (/** @type {string} */ kind, /** @type {string} */ label) =>
      make("button", { label, "data-export": kind, onclick: () => this.guard(() => this.export(kind)) }, kind.toUpperCase());
    const kinds = [one("png", "save a filmstrip as PNG"), one("pdf", "save a filmstrip as PDF")];
    if (this.host.kernel) {
      kinds.unshift(one("mp4", "save the overlay as MP4 video"), one("gif", "save the overlay as GIF"));
      kinds.push(one("page", "save this explorer as one HTML page that works offline"));
    } else if (videoType()) kinds.unshift(one("video", "record the overlay as a video: takes as long as the clip"));
    return make("span", { class: "wb-exports", role: "toolbar", "aria-label": "export" }, ...kinds);
  }

  buildHelp() {
    const rows = KEYS.map(([keys, what]) => make("tr", {}, make("th", { scope: "row" }, keys), make("td", {}, what)));
    this.helpBox = make("div", { class: "wb-help", role: "dialog", "aria-label": "keys", hidden: true, onclick: () => this.help(false) },
      make("div", {}, make("table", {}, ...rows),
        make("p", {}, "The tube is Σ yⱼ·aⱼ over the features with class weight yⱼ ≥ τ (Eq. 1 and 2), interpolated by cubic splines. Colours span the whole clip, never a single frame."),
        make("button", { label: "close the help" }, "close")));
    return this.helpBox;
  }

  /** @param {boolean} open */
  help(open) {
    this.helpBox.hidden = !open;
    if (open) this.helpBox.querySelector("button").focus();
    else this.root.focus({ preventScroll: true });
  }

  watchSize() {
    const watch = new ResizeObserver(() => this.resized());
    for (const element of [this.root, ...this.panels.map((panel) => panel.element)]) watch.observe(element);
    this.closing.push(() => watch.disconnect());
  }

  watchTheme() {
    const update = () => {
      const style = getComputedStyle(this.root);
      const read = (/** @type {string} */ name) => resolved(this.root, style.getPropertyValue(name));
      const theme = { ink: read("--wb-ink"), soft: read("--wb-soft"), line: read("--wb-line"), accent: read("--wb-accent"), paper: read("--wb-paper") };
      if (JSON.stringify(theme) === JSON.stringify(this.theme)) return;
      this.theme = theme;
      const [r, g, b] = (theme.ink.match(/\d+(\.\d+)?/g) ?? ["0", "0", "0"]).map(Number);
      this.root.classList.toggle("wb-dark", 0.3 * r + 0.6 * g + 0.1 * b > 128);
      for (const panel of this.panels) {
        if (!panel.solid.made) continue;
        const { scene } = panel.solid.layout(theme);
        const colors = Object.fromEntries(["xaxis", "yaxis", "zaxis"].flatMap((name) => {
          const axis = /** @type {any} */ (scene)[name];
          return [[`scene.${name}.tickfont.color`, theme.soft], [`scene.${name}.title.font.color`, theme.ink], [`scene.${name}.gridcolor`, axis.gridcolor]];
        }));
        panel.solid.Plotly.update(panel.volume, { "line.color": [theme.ink, theme.soft] }, colors, [2, 3]);
      }
      if (this.lastDraw) this.schedule();
    };
    const later = () => setTimeout(update, 50);
    const watch = new MutationObserver(later);
    watch.observe(document.body, { attributes: true });
    watch.observe(document.documentElement, { attributes: true });
    const media = matchMedia("(prefers-color-scheme: dark)");
    media.addEventListener("change", later);
    this.updateTheme = update;
    this.closing.push(() => (watch.disconnect(), media.removeEventListener("change", later)));
  }

  // Running

  async start() {
    try {
      for (const panel of this.panels) await panel.load();
      await attached(this.root);
      this.loaded = true;
      this.updateTheme();
      this.draw();
      await this.makeVolumes();
    } catch (error) {
      this.fail(error);
    }
  }

  async makeVolumes() {
    const Plotly = await loadPlotly(this.host.plotly);
    for (const panel of this.panels) {
      if (panel.tube && !panel.element.hidden) await this.makeVolume(Plotly, panel);
    }
    await this.drawVolumes(); // what has changed meanwhile
  }

  /** @param {any} Plotly @param {Panel} panel */
  async makeVolume(Plotly, panel) {
    await panel.solid.make(Plotly, this.frameOf(panel), this.lookOf(panel), this.theme);
    await panel.solid.resize(); // the box may have changed meanwhile
    const [{ solid: first }] = this.panels;
    if (panel.solid !== first) await panel.solid.follow(first); // one that opens later joins the others
    /** @type {any} */ (panel.volume).on("plotly_relayout", (/** @type {any} */ event) => {
      if (!event["scene.camera"] || this.turning) return;
      const others = this.panels.filter((other) => other !== panel && other.solid.made);
      this.turn(others.map((other) => () => other.solid.follow(panel.solid)));
    });
  }

  /** Move cameras without the others following once more. @param {(() => Promise<void>)[]} moves */
  async turn(moves) {
    this.turning = true;
    try {
      await Promise.all(moves.map((move) => move()));
    } finally {
      this.turning = false;
    }
  }

  /** The frame of a panel that is nearest in time. @param {Panel} panel */
  frameOf(panel) {
    return panel.payload === this.first.payload ? this.state.frame : nearest(panel.payload.times, this.times[this.state.frame]);
  }

  /**
   * The one way in which something changes here: by a control, a key, or from the kernel.
   * @param {Object<string, any>} changes
   * @param {boolean} [ours] false: it came from the kernel, which need not hear of it
   */
  change(changes, ours = true) {
    const before = this.target;
    const shareBefore = this.share;
    Object.assign(this.state, changes);
    if (this.target !== before) {
      this.state.feature = null;
      if (ours) {
        this.fitTau(shareBefore);
        this.unsent.add("tau").add("feature");
      }
    }
    this.updateShare();
    if (["tau", "choice", "feature", "compare"].some((name) => name in changes)) this.stale = true;
    if (ours) {
      for (const name of Object.keys(changes)) this.unsent.add(name);
      this.commitLater();
    }
    this.schedule();
  }

  /** Keep τ within the new class's weights; in share units keep the share. @param {number} share */
  fitTau(share) {
    const weights = this.weights;
    if (!weights) return;
    const [low, high] = extremes(weights);
    if (share >= 1) this.state.tau = low;
    else if (this.state.unit === "share") this.state.tau = tauForShare(weights, share);
    else this.state.tau = Math.min(Math.max(this.state.tau, low), high);
  }

  updateShare() {
    const weights = this.weights;
    if (weights) this.share = this.tau === null ? 1 : countKept(weights, this.tau) / weights.length;
  }

  /** @param {string} name @param {any} value */
  receive(name, value) {
    if (this.state[name] !== value && !this.unsent.has(name)) this.change({ [name]: value }, false);
  }

  /** Send what has changed, once it rests. @param {number} [wait] */
  commitLater(wait = 150) {
    clearTimeout(this.commitTimer);
    this.commitTimer = setTimeout(() => this.flush(), wait);
  }

  /** Send what has changed: when a drag ends, not on its way. */
  flush() {
    if (!this.unsent.size || this.playing || this.held) return;
    clearTimeout(this.commitTimer);
    const names = SYNCED.filter((name) => this.unsent.has(name));
    this.unsent.clear();
    // With a class, τ reaches its control through the kernel: by itself it could arrive first, at a control that still
    // has the range of the class before.
    const unannounced = names.includes("choice") ? ["tau"] : [];
    this.host.set(Object.fromEntries(names.map((name) => [name, this.state[name]])), unannounced);
  }

  /** @param {number} position of the slider, 0 to STEPS */
  moveTau(position) {
    const weights = this.weights;
    if (!weights) return;
    const [low, high] = extremes(weights);
    const byShare = () => tauForShare(weights, Math.max(1 - position / STEPS, 1e-9));
    this.change({ tau: position === 0 ? low : this.state.unit === "share" ? byShare() : low + ((high - low) * position) / STEPS });
  }

  /** @param {number} steps */
  stepTau(steps) {
    this.moveTau(Math.min(STEPS, Math.max(0, Math.round(this.position) + steps)));
  }

  /** Where the τ slider stands, 0 to STEPS. */
  get position() {
    const { weights, tau } = this;
    if (!weights || tau === null) return 0;
    const [low, high] = extremes(weights);
    return this.state.unit === "share" ? STEPS * (1 - this.share) : (STEPS * (tau - low)) / (high - low || 1);
  }

  /** @param {string} name @param {number} value */
  setRange(name, value) {
    const bounded = name === "low" ? Math.min(Math.max(0, value), this.state.high - 0.05) : Math.max(Math.min(1, value), this.state.low + 0.05);
    this.change({ [name]: Number.isFinite(bounded) ? Math.round(100 * bounded) / 100 : this.state[name] });
  }

  /** @param {number} step */
  stepClass(step) {
    const shown = this.items.flatMap((item, choice) => (item.hidden || item.getAttribute("aria-disabled") === "true" ? [] : [choice]));
    const next = shown[shown.indexOf(this.state.choice) + step];
    if (next !== undefined) this.change({ choice: next });
  }

  /** @param {KeyboardEvent} event */
  onKey(event) {
    const from = /** @type {HTMLElement} */ (event.target);
    const typing = from.matches("input[type=search], input[type=number], input[type=text], textarea");
    if (event.ctrlKey || event.metaKey || event.altKey || (typing && event.key !== "Escape")) return;
    const slides = from.matches("input[type=range], select");
    const last = this.times.length - 1;
    const { frame } = this.state;
    const modes = Object.keys(MODES);
    /** @type {Object<string, () => void>} */
    const acts = {
      "+": () => this.stepTau(4), "=": () => this.stepTau(4), "-": () => this.stepTau(-4), "−": () => this.stepTau(-4),
      "?": () => this.help(this.helpBox.hidden),
      Escape: () => (this.helpBox.hidden ? this.change({ feature: null }) : this.help(false)),
      m: () => this.change({ mode: modes[(modes.indexOf(this.state.mode) + 1) % modes.length] }),
      n: () => this.root.dispatchEvent(new CustomEvent("wb-step", { bubbles: true, detail: 1 })),
      p: () => this.root.dispatchEvent(new CustomEvent("wb-step", { bubbles: true, detail: -1 })),
    };
    if (!slides) {
      acts.ArrowLeft = () => this.change({ frame: Math.max(0, frame - 1) });
      acts.ArrowRight = () => this.change({ frame: Math.min(last, frame + 1) });
      acts.Home = () => this.change({ frame: 0 });
      acts.End = () => this.change({ frame: last });
    }
    if (!from.matches("button, select")) acts[" "] = () => this.play(!this.playing);
    for (let n = 1; n <= 9; n++) acts[n] = () => this.items[n - 1]?.click();
    const act = acts[event.key];
    if (!act) return;
    event.preventDefault();
    event.stopPropagation();
    this.guard(act);
  }

  /** Play at the clip's own pace times the chosen speed, round and round. @param {boolean} on */
  play(on) {
    this.playing = on;
    this.playButton.textContent = on ? "❚❚" : "▶";
    this.playButton.setAttribute("aria-pressed", String(on));
    if (!on) {
      this.commitLater();
      return;
    }
    const [start, stop] = timeEnds(this.times);
    let time = this.times[this.state.frame];
    let before = performance.now();
    const tick = (/** @type {number} */ now) => {
      if (!this.playing || !this.root.isConnected) return;
      time += (Math.max(0, now - before) / 1000) * Number(this.speed.value);
      before = now;
      if (time >= stop) time = start + ((time - start) % (stop - start));
      const frame = nearest(this.times, time);
      if (frame !== this.state.frame) this.change({ frame });
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  // Drawing: the overlay at once, the rest after it is on the screen

  schedule() {
    const now = performance.now();
    this.rapid = now - this.lastInput < 120;
    this.lastInput = now;
    if (this.queued || !this.loaded) return; // `start` draws once the frames are here
    if (now - this.lastDraw > 14 && !document.hidden) this.draw();
    else this.queued = requestAnimationFrame(() => this.draw());
  }

  draw() {
    cancelAnimationFrame(this.queued);
    this.queued = 0;
    this.lastDraw = performance.now();
    try {
      this.refreshControls();
      if (this.stale) this.computeTubes();
      for (const panel of this.panels) if (!panel.element.hidden) panel.draw(this.frameOf(panel), this.lookOf(panel), this.theme.ink);
      this.announce("overlay");
    } catch (error) {
      this.fail(error);
    }
    clearTimeout(this.volumeTimer);
    // Drawn now, the volume comes with the overlay in the screen's next frame.
    if (this.throttled) this.volumeTimer = setTimeout(() => this.drawVolumes(), 90);
    else this.drawVolumes();
    this.detailsQueued ||= setTimeout(() => this.drawDetails(), 60);
  }

  /** A difference has its own, diverging colours. @param {Panel} panel */
  lookOf(panel) {
    return panel.tube?.signed ? { ...this.look, table: this.tables.coolwarm } : this.look;
  }

  computeTubes() {
    const { feature } = this.state;
    const name = this.first.payload.classes[this.target];
    this.evidence.forEach((one, n) => {
      const panel = this.panels[n];
      const target = one.payload.classes.indexOf(name);
      const weights = one.weights(target);
      panel.waiting.hidden = weights !== undefined;
      if (weights === undefined) {
        this.askWeights(n, target);
        return;
      }
      if (weights.some((weight) => !Number.isFinite(weight))) throw new Error(`the class weights of '${name}' hold NaN or infinite values`);
      const tau = n === 0 || this.tau === null ? this.tau : tauForShare(weights, this.share);
      panel.tube = n === 0 && feature !== null ? one.featureTube(feature) : one.tube(target, tau);
    });
    const [a, b, joint] = this.panels;
    if (this.comparable) {
      joint.element.hidden = this.state.compare !== "difference";
      joint.tube = a.tube && b.tube && difference(a.tube, b.tube);
    }
    this.main.classList.toggle("wb-three", this.comparable && !joint.element.hidden);
    this.stale = false;
  }

  /** @param {number} number of the explanation @param {number} target */
  async askWeights(number, target) {
    const one = this.evidence[number];
    const key = `${number}:${target}`;
    const panel = this.panels[number];
    panel.waiting.textContent = `computing the gradients of ${one.payload.classes[target]} …`;
    if (this.asked.has(key)) return;
    this.asked.add(key);
    try {
      const { content, buffers } = await this.host.ask({ kind: "weights", number, target });
      const [weights, ...elements] = buffers;
      one.learn(target, { weights, scale: content.scale, elements: content.elements ? elements : undefined });
      if (number === 0 && target === this.target) this.fitTau(this.share);
      this.updateShare();
      this.stale = true;
      this.refreshControls();
      this.schedule();
    } catch (error) {
      panel.waiting.hidden = true;
      this.fail(error);
    } finally {
      this.asked.delete(key);
    }
  }

  /** While a slider is dragged the overlay comes first: the volume follows when it rests, or now and then. */
  get throttled() {
    return this.rapid && performance.now() - this.lastVolume < 250;
  }

  drawDetails() {
    this.detailsQueued = 0;
    this.guard(() => {
      this.drawCaptions();
      this.drawHistogram();
      this.drawStrip();
      this.drawFilm();
      this.drawTimeline();
      if (this.tableOf !== `${this.target}:${this.state.feature}`) this.drawFeatures();
      for (const panel of this.panels) if (!panel.element.hidden) panel.drawKey(this.lookOf(panel), this.theme.ink);
    });
  }

  prepareVolumes() {
    for (const panel of this.panels) {
      if (panel.solid.made && panel.tube && !panel.element.hidden) panel.solid.prepare(this.frameOf(panel), this.lookOf(panel));
    }
  }

  async drawVolumes() {
    if (this.drawing) {
      this.again = true;
      return;
    }
    if (this.playing && this.volumeCost > 30) return; // a slow screen: the picture moves when it rests
    this.drawing = true;
    try {
      do {
        this.again = false;
        const begun = performance.now();
        this.prepareVolumes();
        for (const panel of this.panels) {
          if (panel.solid.made) await panel.solid.show();
          else if (this.panels[0].solid.made && panel.tube && !panel.element.hidden) await this.makeVolume(await shared.workbenchPlotly, panel);
        }
        this.lastVolume = performance.now();
        this.volumeCost = this.lastVolume - begun;
      } while (this.again);
      if (this.panels[0].solid.made) this.announce("volume");
    } catch (error) {
      this.fail(error);
    } finally {
      this.drawing = false;
    }
  }

  drawCaptions() {
    const many = this.evidence.length > 1;
    this.panels.forEach((panel, n) => {
      const { payload } = panel;
      if (n >= this.evidence.length) {
        panel.caption.replaceChildren(make("b", {}, panel.title));
        return;
      }
      const kept = panel.tube ? `${panel.tube.kept} of ${this.evidence[n].features} features` : "";
      const mark = many ? make("span", { class: "wb-mark", style: `background:${panel.color}` }) : null;
      panel.caption.replaceChildren(mark ?? "", make("bdi", {}, panel.title), " says ", make("bdi", { class: "wb-says" }, payload.verdict),
        make("small", {}, ` · ${payload.how}${many ? ` · ${kept}` : ""}`));
    });
    const { feature } = this.state;
    const name = feature === null ? this.first.payload.classes[this.target] : `feature ${feature}`;
    this.root.dataset.shown = name;
  }

  refreshControls() {
    const { state } = this;
    const weights = this.weights;
    const listed = `${state.choice} ${state.search}`;
    if (listed !== this.listed) this.listClasses();
    this.listed = listed;
    if (this.scrolledTo !== state.choice) {
      this.scrolledTo = state.choice;
      const item = this.items[state.choice];
      if (item.offsetTop < this.list.scrollTop || item.offsetTop + item.offsetHeight > this.list.scrollTop + this.list.clientHeight) this.list.scrollTop = item.offsetTop - 40;
    }
    if (this.search.value !== state.search) this.search.value = state.search;
    this.frameSlider.value = state.frame;
    this.clock.textContent = `frame ${state.frame} · ${this.times[state.frame].toFixed(2)} s`;
    this.opacity.value = state.opacity;
    this.opacity.disabled = state.mode !== "heat";
    this.colormap.value = state.colormap;
    this.boxes.checked = state.boxes;
    this.compare.checked = state.compare === "difference";
    for (const [input, value] of [[this.low, state.low], [this.high, state.high]]) {
      if (document.activeElement !== input) input.value = Math.round(100 * value); // else it is being typed
    }
    this.back.hidden = state.feature === null;
    for (const group of [this.modes, this.units]) group.refresh();
    if (!weights) return;
    const [low, high] = extremes(weights);
    this.slider.disabled = low === high;
    const tau = this.tau;
    const { position } = this;
    if (document.activeElement !== this.slider || Math.abs(position - this.slider.value) > 1.5) this.slider.value = position;
    const kept = countKept(weights, tau);
    this.kept.textContent = `${tau === null ? "no threshold" : `τ = ${rounded(tau, high - low)}`} · keeps ${kept === weights.length ? "all" : kept} of ${weights.length} features (${percent(kept / weights.length)})`;
    this.slider.setAttribute("aria-valuetext", this.kept.textContent);
  }

  /** Show the classes that the search finds, and the chosen one. */
  listClasses() {
    const { classes, order } = this.first.payload;
    const wanted = this.state.search.trim().toLocaleLowerCase();
    this.items.forEach((item, choice) => {
      const chosen = choice === this.state.choice;
      item.setAttribute("aria-selected", String(chosen));
      item.hidden = !chosen && !classes[order[choice]].toLocaleLowerCase().includes(wanted);
    });
  }

  drawHistogram() {
    const weights = this.weights;
    const [width, height] = [this.bars.clientWidth || 200, 56];
    const context = prepared(this.bars, width, height);
    if (!weights) return;
    const [low, high] = extremes(weights);
    const [left, right, base] = [8, width - 8, height - 14];
    const bins = 40;
    const counts = histogram(weights, bins);
    const most = Math.max(...counts);
    const tau = this.tau ?? low;
    const step = (right - left) / bins;
    counts.forEach((count, n) => {
      const middle = low + ((n + 0.5) * (high - low)) / bins;
      context.fillStyle = middle >= tau ? this.theme.accent : this.theme.line;
      const tall = Math.sqrt(count / most) * (base - 2); // a root: single features stay visible
      context.fillRect(left + n * step, base - tall, Math.max(1, step - 1), tall);
    });
    const cut = high > low ? left + ((tau - low) / (high - low)) * (right - left) : left;
    context.fillStyle = this.theme.ink;
    context.fillRect(cut - 1, 0, 2, base);
    context.font = "10px system-ui, sans-serif";
    context.fillStyle = this.theme.soft;
    const marks = [[low, "left"], [high, "right"], ...(low < 0 && high > 0 ? [[0, "center"]] : [])];
    for (const [value, align] of /** @type {[number, CanvasTextAlign][]} */ (marks)) {
      const x = left + ((value - low) / (high - low || 1)) * (right - left);
      if (align === "center" && (x < left + 44 || x > right - 44)) continue;
      context.textAlign = align;
      context.fillText(rounded(value, high - low), x, height - 3);
    }
    context.textAlign = "start";
  }

  drawFeatures() {
    this.tableOf = `${this.target}:${this.state.feature}`;
    const rows = this.first.strongest(this.target, 8);
    const most = Math.max(...rows.map((row) => Math.abs(row.contribution)), 1e-30);
    this.table.replaceChildren(...rows.map(({ channel, weight, contribution }) => {
      const pressed = channel === this.state.feature;
      const toggle = () => this.change({ feature: this.state.feature === channel ? null : channel });
      return make("tr", { class: pressed ? "wb-pressed" : null, onclick: toggle },
        make("td", {}, make("button", { label: `show the tube of feature ${channel} alone`, "aria-pressed": String(pressed), onclick: (/** @type {Event} */ event) => (event.stopPropagation(), toggle()) }, String(channel))),
        make("td", {}, rounded(weight, Math.abs(weight))),
        make("td", {}, make("span", { class: "wb-fill", style: `width:${(100 * Math.abs(contribution)) / most}%` }), make("span", {}, rounded(contribution, most))));
    }));
  }

  drawStrip() {
    const { profile: line } = this.panels[0];
    const width = this.strip.clientWidth || 300;
    const context = prepared(this.strip, width, 8);
    if (!line) return;
    const most = Math.max(...line, 1e-9);
    // A slider's thumb is 16 px wide and stays within the slider.
    const place = (/** @type {number} */ n) => 8 + (n / Math.max(1, line.length - 1)) * (width - 16);
    line.forEach((value, n) => {
      const [from, to] = [place(n - 0.5), place(n + 0.5)];
      context.fillStyle = `rgb(${colorAt(this.tables[this.state.colormap], value / most).join(",")})`;
      context.fillRect(Math.max(0, from), 0, Math.min(width, to) - Math.max(0, from) + 0.5, 8);
    });
  }

  /** Frames in the filmstrip and their width. */
  filmLayout() {
    const width = this.film.clientWidth || 600;
    const [, H, W] = this.first.payload.size;
    const height = 56;
    const wide = (height * W) / H;
    const count = Math.min(this.times.length, Math.max(1, Math.floor(width / (wide + 2))));
    const frames = Array.from({ length: count }, (_, n) => Math.round((n * (this.times.length - 1)) / Math.max(1, count - 1)));
    return { width, height, wide: Math.min(wide, width / count), step: width / count, frames };
  }

  /** @param {number} x */
  filmFrame(x) {
    const { step, frames } = this.filmLayout();
    return frames[Math.min(frames.length - 1, Math.max(0, Math.floor(x / step)))];
  }

  drawFilm() {
    const panel = this.panels[0];
    const { width, height, wide, step, frames } = this.filmLayout();
    const context = prepared(this.film, width, height + 4);
    const { tube } = panel;
    if (!tube || !panel.thumbs.length) return;
    const [, H, W] = tube.size;
    const small = panel.thumbs[0];
    const image = new ImageData(small.width, small.height);
    [this.thumb.width, this.thumb.height] = [small.width, small.height];
    const columns = Int32Array.from({ length: small.width }, (_, x) => Math.floor(((x + 0.5) * W) / small.width));
    const rows = Int32Array.from({ length: small.height }, (_, y) => Math.floor(((y + 0.5) * H) / small.height) * W);
    const nearestShown = nearest(frames, this.state.frame);
    frames.forEach((frame, n) => {
      const first = frame * H * W;
      paint(image.data, panel.thumbs[frame].data, (k) => tube.values[first + rows[(k / small.width) | 0] + columns[k % small.width]], tube, this.lookOf(panel));
      context2d(this.thumb).putImageData(image, 0, 0);
      const left = n * step + (step - wide) / 2;
      context.drawImage(this.thumb, left + 1, 2, wide - 2, height);
      if (n !== nearestShown) return;
      context.strokeStyle = this.theme.accent;
      context.lineWidth = 3;
      context.strokeRect(left + 1.5, 1.5, wide - 3, height + 1);
    });
  }

  timeRange() {
    const ends = this.evidence.map((one) => timeEnds(one.payload.times));
    return [Math.min(...ends.map((end) => end[0])), Math.max(...ends.map((end) => end[1]))];
  }

  /** Left and right end of the timeline's plot; answers over time have an axis of their own on the right. */
  plotEdges() {
    return [40, (this.timeline.clientWidth || 600) - (this.evidence.some((one) => one.answers) ? 44 : 10)];
  }

  drawTimeline() {
    const [width, height] = [this.timeline.clientWidth || 600, 118];
    const context = prepared(this.timeline, width, height);
    const [left, right] = this.plotEdges();
    const [top, bottom] = [18, height - 32];
    const [start, stop] = this.timeRange();
    const shown = this.panels.slice(0, this.evidence.length);
    const most = Math.ceil(10 * Math.max(0.05, ...shown.flatMap((panel) => [...(panel.profile ?? [])])) + 0.5) / 10;
    const x = (/** @type {number} */ time) => left + ((time - start) / (stop - start)) * (right - left);
    const y = (/** @type {number} */ value) => bottom - (value / most) * (bottom - top);
    const { ink, soft, line, accent } = this.theme;
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    for (const action of this.first.payload.actions) {
      const [from, to] = [x(Math.max(start, action.start)), x(Math.min(stop, action.stop))];
      if (to <= from) continue;
      context.fillStyle = line;
      context.fillRect(from, top, to - from, bottom - top);
      context.fillStyle = soft;
      context.fillText(action.label, from + 3, 9, Math.max(40, to - from - 6));
    }
    context.textAlign = "right";
    for (const value of [0, most / 2, most]) {
      context.fillStyle = line;
      context.fillRect(left, y(value) - 0.5, right - left, 1);
      context.fillStyle = soft;
      context.fillText(value.toFixed(2), left - 5, y(value));
    }
    context.textAlign = "center";
    const step = niceStep((stop - start) / 8);
    for (let time = Math.ceil(start / step) * step; time <= stop; time += step) {
      context.fillRect(x(time) - 0.5, bottom, 1, 4);
      context.fillText(String(Number(time.toFixed(6))), x(time), bottom + 11);
    }
    context.fillStyle = ink;
    context.fillText("time (s)", (left + right) / 2, height - 7);
    context.save();
    context.translate(7, (top + bottom) / 2);
    context.rotate(-Math.PI / 2);
    context.fillText("saliency", 0, 0);
    context.restore();
    context.textAlign = "start";
    context.fillStyle = ink;
    context.fillRect(x(this.times[this.state.frame]) - 0.75, top, 1.5, bottom - top);
    shown.forEach((panel, n) => {
      if (!panel.profile) return;
      context.strokeStyle = context.fillStyle = shown.length > 1 ? panel.color : accent;
      context.lineWidth = 2;
      context.beginPath();
      panel.profile.forEach((value, k) => context.lineTo(x(panel.payload.times[k]), y(value)));
      context.stroke();
      panel.profile.forEach((value, k) => context.fillRect(x(panel.payload.times[k]) - 2, y(value) - 2, 4, 4));
      if (shown.length === 1) return;
      // The key shares the lowest line with the axis title, which stands in its middle.
      const place = left + ((n + (n >= shown.length / 2 ? 1 : 0)) * (right - left)) / (shown.length + 1);
      context.fillRect(place, height - 12, 9, 9);
      context.fillText(panel.title, place + 13, height - 7, (right - left) / (shown.length + 1) - 20);
    });
    this.drawAnswers(context, x, [top, bottom], right);
  }

  /**
   * The network's answers over time, dashed, with their axis on the right.
   * @param {CanvasRenderingContext2D} context
   * @param {(time: number) => number} x
   * @param {[number, number]} ends top and bottom of the plot
   * @param {number} right
   */
  drawAnswers(context, x, [top, bottom], right) {
    const name = this.first.payload.classes[this.target];
    const lines = this.evidence.map((one) => one.answerLine(one.payload.classes.indexOf(name)));
    if (!lines.some(Boolean)) return;
    const y = (/** @type {number} */ value) => bottom - value * (bottom - top);
    const color = (/** @type {number} */ n) => (lines.length > 1 ? this.panels[n].color : LINES[0]);
    context.fillStyle = this.theme.soft;
    for (const value of [0, 0.5, 1]) context.fillText(value.toFixed(1), right + 6, y(value));
    context.setLineDash([6, 4]);
    lines.forEach((line, n) => {
      context.strokeStyle = color(n);
      context.lineWidth = 2;
      context.beginPath();
      for (const { time, probability } of line ?? []) context.lineTo(x(time), y(probability));
      context.stroke();
    });
    context.setLineDash([]);
    context.save();
    context.translate(right + 36, (top + bottom) / 2);
    context.rotate(Math.PI / 2);
    context.textAlign = "center";
    context.fillStyle = color(0);
    context.fillText("answer (dashed)", 0, 0, bottom - top + 30);
    context.restore();
  }

  resized() {
    if (!this.root.clientWidth) return;
    this.root.classList.toggle("wb-narrow", this.root.clientWidth < 980);
    this.root.classList.toggle("wb-wide", this.root.clientWidth >= 1150);
    if (!this.lastDraw) return;
    this.draw();
    this.guard(() => this.turn(this.panels.map((panel) => () => panel.solid.resize())));
  }

  // Exports

  /** @param {string} kind */
  async export(kind) {
    const name = this.first.payload.clip.replace(/[^\p{L}\p{N}._-]+/gu, "_").slice(0, 60) || "clip";
    if (kind === "page") {
      const { buffers } = await this.host.ask({ kind: "page" });
      download(`${name}.html`, buffers[0], "text/html");
    } else if (kind === "png" || kind === "pdf") {
      const canvas = this.filmstrip(8);
      const png = kind === "png";
      const bytes = await encoded(canvas, png ? "image/png" : "image/jpeg");
      download(`${name}.${kind}`, png ? bytes : pdfOf(new Uint8Array(bytes), canvas.width, canvas.height), png ? "image/png" : "application/pdf");
    } else if (kind === "video") {
      const type = videoType();
      download(`${name}.${type.includes("webm") ? "webm" : "mp4"}`, await this.recording(type), type);
    } else {
      const buffers = [];
      for (let frame = 0; frame < this.times.length; frame++) buffers.push(await encoded(this.row(frame), "image/jpeg"));
      const { buffers: answer } = await this.host.ask({ kind: "video", suffix: `.${kind}` }, buffers);
      download(`${name}.${kind}`, answer[0], kind === "gif" ? "image/gif" : "video/mp4");
    }
    this.announce("export");
  }

  /** A run through the clip, recorded by the browser at the clip's own pace. @param {string} type */
  async recording(type) {
    const canvas = this.row(0);
    const recorder = new MediaRecorder(canvas.captureStream(), { mimeType: type, videoBitsPerSecond: 4e6 });
    /** @type {Blob[]} */
    const parts = [];
    recorder.ondataavailable = (event) => parts.push(event.data);
    const stopped = new Promise((done) => (recorder.onstop = done));
    recorder.start();
    const [start, stop] = timeEnds(this.times);
    const begun = performance.now();
    for (let time = start; time < stop; time = start + (performance.now() - begun) / 1000) {
      context2d(canvas).drawImage(this.row(nearest(this.times, time)), 0, 0);
      await new Promise(requestAnimationFrame);
    }
    recorder.stop();
    await stopped;
    return new Blob(parts, { type });
  }

  /** All panels at a frame, side by side. @param {number} frame */
  row(frame) {
    const shown = this.panels.filter((panel) => !panel.element.hidden);
    const height = 2 * Math.round(Math.max(160, Math.min(360, this.first.payload.size[1])) / 2);
    const widths = shown.map((panel) => 2 * Math.round((height * panel.payload.size[2]) / panel.payload.size[1] / 2));
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [widths.reduce((a, b) => a + b, 0), height];
    const context = context2d(canvas);
    shown.forEach((panel, n) => {
      const at = panel.payload === this.first.payload ? frame : nearest(panel.payload.times, this.times[frame]);
      panel.drawFrame(context, at, this.lookOf(panel), widths[n], height);
      context.translate(widths[n], 0);
    });
    return canvas;
  }

  /** Evenly chosen frames with their times; a row for each panel. @param {number} most */
  filmstrip(most) {
    const shown = this.panels.filter((panel) => !panel.element.hidden && panel.tube);
    const count = Math.min(most, this.times.length);
    const frames = Array.from({ length: count }, (_, n) => Math.floor((n * (this.times.length - 1)) / Math.max(1, count - 1)));
    const [, H, W] = this.first.payload.size;
    const [height, width, head, gap] = [200, Math.round((200 * W) / H), 26, 4];
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [count * (width + gap) - gap, 28 + shown.length * (head + height)];
    const context = context2d(canvas);
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    const { payload } = this.first;
    const text = (/** @type {string} */ words, /** @type {number} */ x, /** @type {number} */ y) => {
      context.font = "15px system-ui, sans-serif";
      context.fillStyle = "#2b2f36";
      context.fillText(words, x, y);
    };
    text(`${payload.clip}: ${this.root.dataset.shown ?? payload.classes[this.target]}, ${this.kept.textContent}`, 4, 19);
    shown.forEach((panel, r) => {
      const top = 28 + r * (head + height);
      frames.forEach((frame, n) => {
        const at = panel.payload === payload ? frame : nearest(panel.payload.times, this.times[frame]);
        text(`${n === 0 && shown.length > 1 ? `${panel.title} · ` : ""}${panel.payload.times[at].toFixed(2)} s`, n * (width + gap) + 4, top + 18);
        context.save();
        context.translate(n * (width + gap), top + head);
        panel.drawFrame(context, at, this.lookOf(panel), width, height);
        context.restore();
      });
    });
    return canvas;
  }

  // Messages

  /** @param {() => any} act */
  async guard(act) {
    try {
      await act();
    } catch (error) {
      this.fail(error);
    }
  }

  /** @param {unknown} error */
  fail(error) {
    this.say(error instanceof Error ? error.message : String(error));
  }

  /** @param {string} text */
  say(text) {
    this.note.textContent = text;
    this.note.hidden = !text;
  }

  /** Tell tests and benchmarks what has been drawn. @param {string} part */
  announce(part) {
    this.root.dispatchEvent(new CustomEvent(`wb-${part}`, { bubbles: true }));
    this.root.dataset[part] = String(Number(this.root.dataset[part] ?? 0) + 1);
  }

  /** Stop, and free what the page holds. */
  close() {
    this.playing = false;
    for (const timer of [this.volumeTimer, this.commitTimer, this.detailsQueued]) clearTimeout(timer);
    for (const call of this.closing) call();
    for (const panel of this.panels) panel.solid.free();
  }
}

/**
 * Buttons of which one is pressed.
 * @param {Explorer} app
 * @param {string} name of the state
 * @param {Object<string, string>} options value to tooltip
 */
function choices(app, name, options) {
  const group = make("span", { class: "wb-choices", role: "group", "aria-label": name });
  for (const [value, label] of Object.entries(options)) {
    group.append(make("button", { label, "data-value": value, onclick: () => app.change({ [name]: value }) }, value));
  }
  group.refresh = () => {
    for (const button of group.children) button.setAttribute("aria-pressed", String(button.dataset.value === app.state[name]));
  };
  group.refresh();
  return group;
}

/** Make names differ. @param {string[]} names */
function titles(names) {
  return names.map((name, n) => (names.filter((other) => other === name).length > 1 ? `${name} (${n + 1})` : name));
}

/** @param {number} least */
function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return power * ([1, 2, 5, 10].find((factor) => factor * power >= least) ?? 10);
}

/** A CSS colour as rgb(…), whatever way it is written. @param {HTMLElement} root @param {string} color */
function resolved(root, color) {
  const probe = make("span", { style: `color:${color}` });
  root.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

/** Wait until an element is on the page and has a width. @param {HTMLElement} element */
async function attached(element) {
  for (let n = 0; n < 600 && !(element.isConnected && element.clientWidth); n++) {
    await new Promise((done) => setTimeout(done, 16));
  }
}

/** @param {HTMLCanvasElement} canvas @param {string} type @returns {Promise<ArrayBuffer>} */
async function encoded(canvas, type) {
  const blob = await new Promise((done) => canvas.toBlob(done, type, 0.95));
  if (blob === null) throw new Error("the browser could not encode the picture");
  return blob.arrayBuffer();
}

/** The kind of video that this browser can record, or "". */
function videoType() {
  if (typeof MediaRecorder === "undefined" || !HTMLCanvasElement.prototype.captureStream) return "";
  return ["video/webm", "video/mp4"].find((type) => MediaRecorder.isTypeSupported(type)) ?? "";
}

/** @param {string} name @param {BlobPart} bytes @param {string} type */
function download(name, bytes, type) {
  const address = URL.createObjectURL(new Blob([bytes], { type }));
  const link = make("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/**
 * A PDF of one page that shows a JPEG.
 * @param {Uint8Array<ArrayBuffer>} jpeg
 * @param {number} width
 * @param {number} height
 */
export function pdfOf(jpeg, width, height) {
  const [w, h] = [width / 2, height / 2]; // points: 144 pixels an inch
  const content = `q ${w} 0 0 ${h} 0 0 cm /I Do Q`;
  const text = new TextEncoder();
  const objects = [
    [text.encode("<< /Type /Catalog /Pages 2 0 R >>")],
    [text.encode("<< /Type /Pages /Kids [3 0 R] /Count 1 >>")],
    [text.encode(`<< /Type /Page /Parent 2 0 R /MediaBox [0 0 ${w} ${h}] /Contents 4 0 R /Resources << /XObject << /I 5 0 R >> >> >>`)],
    [text.encode(`<< /Length ${content.length} >>\nstream\n${content}\nendstream`)],
    [text.encode(`<< /Type /XObject /Subtype /Image /Width ${width} /Height ${height} /ColorSpace /DeviceRGB /BitsPerComponent 8 /Filter /DCTDecode /Length ${jpeg.length} >>\nstream\n`), jpeg, text.encode("\nendstream")],
  ];
  const parts = [text.encode("%PDF-1.4\n")];
  const size = () => parts.reduce((sum, part) => sum + part.length, 0);
  const offsets = objects.map((object, n) => {
    const offset = size();
    parts.push(text.encode(`${n + 1} 0 obj\n`), ...object, text.encode("\nendobj\n"));
    return offset;
  });
  const start = size();
  const rows = offsets.map((offset) => `${String(offset).padStart(10, "0")} 00000 n \n`).join("");
  parts.push(text.encode(`xref\n0 ${objects.length + 1}\n0000000000 65535 f \n${rows}trailer\n<< /Size ${objects.length + 1} /Root 1 0 R >>\nstartxref\n${start}\n%%EOF\n`));
  const out = new Uint8Array(size());
  let place = 0;
  for (const part of parts) {
    out.set(part, place);
    place += part.length;
  }
  return out;
}

// ------------------------------------------------------------------------------------------------ clips

const PAGE = 24; // thumbnails at once

/** A data set's clips: thumbnails, filters, and a run over all that are listed. */
class ClipList {
  /**
   * @param {HTMLElement} root
   * @param {Host} host
   */
  constructor(root, host) {
    this.root = root;
    this.host = host;
    /** @type {{name: string, label: string, text: string}[]} */
    this.rows = host.get("rows").map((/** @type {string[]} */ [name, label, text]) => ({ name, label, text }));
    /** @type {Map<string, {predicted: string, probability: number, right: boolean | null}>} */
    this.results = new Map();
    /** @type {Map<string, string>} */
    this.thumbs = new Map();
    this.page = 0;
    this.running = false;
    this.build();
    host.listen("message", (content) => content.result && this.learn([content.result]));
    for (const name of ["category", "chosen", "busy", "note"]) host.listen(name, () => this.draw());
    this.draw();
    this.reveal();
    this.ask({ kind: "results" }).then((answer) => this.learn(answer?.content.results ?? []));
  }

  build() {
    this.root.classList.add("wb", "wb-clips");
    this.root.setAttribute("data-lm-suppress-shortcuts", "true");
    const redraw = () => ((this.page = 0), this.draw());
    const classes = [...new Set(this.rows.map((row) => row.label))].filter(Boolean);
    this.search = make("input", { class: "wb-search", type: "search", placeholder: `search ${this.rows.length} clips`, label: "search names and narrations", oninput: redraw });
    this.category = make("select", { label: "class", onchange: () => ((this.page = 0), this.host.set({ category: this.category.value }), this.draw()) },
      make("option", { value: "" }, "all classes"), ...classes.map((name) => make("option", { value: name }, name)));
    this.outcome = make("select", { label: "right or wrong", onchange: redraw }, ...["any outcome", "right", "wrong", ...(this.host.get("explains") ? ["not explained yet"] : [])].map((name) => make("option", { value: name }, name)));
    const bound = (/** @type {string} */ label, /** @type {number} */ value) => make("input", { class: "wb-number", type: "number", min: 0, max: 100, step: 5, value, label, oninput: redraw });
    this.least = bound("lowest confidence in %", 0);
    this.most = bound("highest confidence in %", 100);
    this.count = make("span", { class: "wb-clock", role: "status" });
    const step = (/** @type {number} */ by) => () => this.step(by);
    this.runButton = make("button", { hidden: !this.host.get("explains"), label: "explain every clip in the list, which tells right from wrong", onclick: () => this.run() }, "explain all");
    this.progress = make("progress", { max: 1, value: 0, hidden: true, "aria-label": "clips explained" });
    this.cards = make("div", { class: "wb-cards", role: "listbox", "aria-label": "clips" });
    this.earlier = make("button", { label: "earlier clips in the list", onclick: () => (this.page--, this.draw()) }, "‹");
    this.later = make("button", { label: "later clips in the list", onclick: () => (this.page++, this.draw()) }, "›");
    this.busy = make("div", { class: "wb-busy", role: "status", hidden: true });
    this.note = make("div", { class: "wb-note", role: "alert", hidden: true });
    this.root.append(
      make("div", { class: "wb-looks", role: "toolbar", "aria-label": "clips" }, this.search, this.category, this.outcome,
        make("span", { class: "wb-range" }, "confidence", this.least, "–", this.most, "%"), this.count,
        make("button", { label: "previous clip (p)", onclick: step(-1) }, "previous"), make("button", { label: "next clip (n)", onclick: step(1) }, "next"), this.runButton, this.progress),
      make("div", { class: "wb-pager" }, this.earlier, this.cards, this.later), this.busy, this.note);
    this.root.addEventListener("keydown", (event) => {
      const by = /** @type {Object<string, number>} */ ({ n: 1, p: -1 })[event.key];
      if (!by || /** @type {HTMLElement} */ (event.target).matches("input, select")) return;
      event.preventDefault();
      event.stopPropagation();
      this.step(by);
    });
    // Keys n and p of the explorer below arrive through the box that holds both.
    attached(this.root).then(() => this.root.closest(".wb-browser")?.addEventListener("wb-step", (event) => this.step(/** @type {CustomEvent} */ (event).detail)));
  }

  get listed() {
    const wanted = this.search.value.trim().toLocaleLowerCase();
    const [least, most] = [Number(this.least.value) / 100, Number(this.most.value) / 100];
    const category = this.host.get("category");
    return this.rows.filter(({ name, label, text }) => {
      if (category && label !== category) return false;
      if (wanted && !`${name} ${text}`.toLocaleLowerCase().includes(wanted)) return false;
      const result = this.results.get(name);
      if (this.outcome.value === "not explained yet") return !result;
      if (this.outcome.value !== "any outcome" && result?.right !== (this.outcome.value === "right")) return false;
      return (least <= 0 && most >= 1) || (result !== undefined && result.probability >= least && result.probability <= most);
    });
  }

  /** @param {any[][]} results */
  learn(results) {
    for (const [name, predicted, probability, right] of results) this.results.set(name, { predicted, probability, right });
    this.draw();
  }

  /** @param {Object<string, any>} question */
  async ask(question) {
    try {
      return await this.host.ask(question);
    } catch (error) {
      if (question.kind === "explain") this.say(`${question.name}: ${error instanceof Error ? error.message : error}`);
      return null;
    }
  }

  /** @param {string} text */
  say(text) {
    this.note.textContent = text;
    this.note.hidden = !text;
  }

  /** Show the clip so many places on in the list. @param {number} by */
  step(by) {
    const { listed } = this;
    const place = listed.findIndex((row) => row.name === this.host.get("chosen"));
    const next = listed[place < 0 ? 0 : place + by];
    if (next) this.choose(next.name);
  }

  /** @param {string} name */
  choose(name) {
    if (name === this.host.get("chosen")) return;
    this.say("");
    this.host.set({ chosen: name });
    this.reveal();
    this.draw();
    this.prefetch();
  }

  /** Turn to the page of the chosen clip. */
  reveal() {
    const place = this.listed.findIndex((row) => row.name === this.host.get("chosen"));
    if (place >= 0) this.page = Math.floor(place / PAGE);
  }

  /** Have the next clip explained while this one is looked at. */
  prefetch() {
    const { listed } = this;
    const next = listed[listed.findIndex((row) => row.name === this.host.get("chosen")) + 1];
    // The kernel takes questions in turn: this one waits until the chosen clip is on the screen.
    if (next && !this.running) this.host.ask({ kind: "explain", name: next.name }).catch(() => {});
  }

  /** Explain the listed clips one after the other; a second call stops. */
  async run() {
    if (this.running) {
      this.running = false;
      return;
    }
    const waiting = this.listed.filter((row) => !this.results.has(row.name));
    this.running = true;
    this.runButton.textContent = "stop";
    this.progress.hidden = false;
    this.progress.max = Math.max(1, waiting.length);
    for (let n = 0; n < waiting.length && this.running && this.root.isConnected; n++) {
      this.progress.value = n;
      await this.ask({ kind: "explain", name: waiting[n].name });
    }
    this.running = false;
    this.runButton.textContent = "explain all";
    this.progress.hidden = true;
  }

  draw() {
    const { listed } = this;
    const chosen = this.host.get("chosen");
    const last = Math.max(0, Math.ceil(listed.length / PAGE) - 1);
    this.page = Math.min(Math.max(0, this.page), last);
    this.category.value = this.host.get("category");
    const judged = listed.map((row) => this.results.get(row.name)?.right).filter((right) => typeof right === "boolean");
    const [right, known] = [judged.filter(Boolean).length, judged.length];
    this.count.textContent = `${listed.length} clips${known ? `, ${right} of ${known} right` : ""}`;
    this.earlier.hidden = this.later.hidden = last === 0;
    this.earlier.disabled = this.page === 0;
    this.later.disabled = this.page === last;
    this.busy.textContent = this.host.get("busy");
    this.busy.hidden = !this.host.get("busy");
    if (this.host.get("note") !== this.noted) this.say((this.noted = this.host.get("note")));
    const shown = listed.slice(this.page * PAGE, (this.page + 1) * PAGE);
    this.cards.replaceChildren(...shown.map((row) => this.card(row, row.name === chosen)));
    this.cards.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
    this.fetchThumbs(shown.map((row) => row.name));
  }

  /** @param {{name: string, label: string, text: string}} row @param {boolean} chosen */
  card({ name, label, text }, chosen) {
    const result = this.results.get(name);
    const judged = typeof result?.right === "boolean"; // a clip without a label is neither
    const mark = judged ? (result.right ? "✓ " : "✗ ") : "";
    const verdict = result ? `${mark}${result.predicted} ${percent(result.probability)}` : "";
    return make("button", { class: `wb-card ${judged ? (result.right ? "wb-right" : "wb-wrong") : ""}`, role: "option", "aria-selected": String(chosen),
      label: [name, label, text, verdict].filter(Boolean).join(", "), onclick: () => this.choose(name) },
      make("img", { alt: "", src: this.thumbs.get(name) ?? "data:image/gif;base64,R0lGODlhAQABAAAAACw=" }),
      make("bdi", { class: "wb-name" }, text || name), make("small", {}, make("bdi", {}, label)), make("small", { class: "wb-verdict" }, make("bdi", {}, verdict)));
  }

  /** Fetch what is missing, one at a time, and only what is on the screen. @param {string[]} names */
  async fetchThumbs(names) {
    this.wanted = names;
    if (this.fetching) return;
    this.fetching = true;
    for (;;) {
      const name = this.wanted.find((one) => !this.thumbs.has(one));
      if (name === undefined || !this.root.isConnected) break;
      const answer = await this.ask({ kind: "thumb", name });
      this.thumbs.set(name, answer ? URL.createObjectURL(new Blob([copied(answer.buffers[0])], { type: "image/jpeg" })) : "");
      const place = this.listed.slice(this.page * PAGE).findIndex((row) => row.name === name);
      const picture = /** @type {HTMLImageElement | null | undefined} */ (this.cards.children[place]?.querySelector("img"));
      if (picture && answer) picture.src = /** @type {string} */ (this.thumbs.get(name));
    }
    this.fetching = false;
  }

  close() {
    this.running = false;
    for (const address of this.thumbs.values()) if (address) URL.revokeObjectURL(address);
  }
}

// ------------------------------------------------------------------------------------------------ hosts

/** @param {any} model anywidget's @returns {Host} */
function kernelHost(model) {
  const code = async () => {
    const id = model.get("plotly").replace("IPY_MODEL_", "");
    const holder = await model.widget_manager.get_model(id);
    return new Uint8Array(copied(holder.get("code")));
  };
  let last = 0;
  return {
    kernel: true,
    get: (name) => model.get(name),
    set: (changes, unannounced = []) => {
      // A control that is linked in the browser sends its own message.
      const linked = model.get("linked") ?? [];
      for (const [name, value] of Object.entries(changes)) model.set(name, value, { silent: unannounced.includes(name) });
      if (Object.keys(changes).some((name) => !linked.includes(name))) model.save_changes();
    },
    listen: (name, call) =>
      name === "message" ? model.on("msg:custom", call) : model.on(`change:${name}`, () => call(model.get(name))),
    plotly: code,
    ask: (question, buffers = []) => {
      const id = `${Date.now()}-${last++}-${Math.random()}`;
      return new Promise((done, fail) => {
        const onAnswer = (/** @type {any} */ content, /** @type {DataView<ArrayBuffer>[]} */ answer) => {
          if (content?.id !== id) return;
          model.off("msg:custom", onAnswer);
          if (content.error) fail(new Error(content.error));
          else done({ content, buffers: answer });
        };
        model.on("msg:custom", onAnswer);
        model.send({ ...question, id }, undefined, buffers);
      });
    },
  };
}

/**
 * Start the explorer in a saved page.
 * @param {HTMLElement} root
 * @param {Object<string, any>} values what the traits hold in the notebook
 * @param {() => Promise<Uint8Array<ArrayBuffer>>} plotly
 */
export function mount(root, values, plotly) {
  return new Explorer(root, {
    kernel: false,
    get: (name) => values[name],
    set: (changes) => void Object.assign(values, changes),
    listen: () => {},
    plotly,
    ask: () => Promise.reject(new Error("this needs a kernel: open the clip in a notebook")),
  });
}

/**
 * Start a saved page: `data` is a gzipped container of JSON and the bytes it refers to, in base64.
 * @param {HTMLElement} root
 * @param {string} data
 * @param {string} plotly gzipped plotly.js in base64
 */
export async function openPage(root, data, plotly) {
  const packed = new Blob([fromBase64(data)]).stream().pipeThrough(new DecompressionStream("gzip"));
  const bytes = await new Response(packed).arrayBuffer();
  const length = new DataView(bytes).getUint32(0, true);
  const text = new TextDecoder().decode(new Uint8Array(bytes, 4, length));
  const values = JSON.parse(text, (_, value) =>
    value?.$bytes ? new DataView(bytes, 4 + length + value.$bytes[0], value.$bytes[1]) : value,
  );
  const app = mount(root, values, async () => fromBase64(plotly));
  /** @type {any} */ (root).explorer = app;
  return app;
}

/** @param {string} text */
function fromBase64(text) {
  return Uint8Array.from(atob(text.trim()), (letter) => letter.charCodeAt(0));
}

/** @param {{model: any, el: HTMLElement}} context anywidget's */
function render({ model, el }) {
  const root = make("div");
  el.append(root);
  const host = kernelHost(model);
  const app = model.get("kind") === "clips" ? new ClipList(root, host) : new Explorer(root, host);
  /** @type {any} */ (root).explorer = app;
  return () => app.close();
}

export default { render };
