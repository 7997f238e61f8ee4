// The map's picture: points on a canvas, where one looks at it from, and what the pointer does.

import {shortLabel} from "./dom.js";
import {nearest} from "./places.js";

const MARGIN = 0.93; // of half the canvas: as far as the outermost point is from the middle
const MOST_ZOOM = 60;
export const STEP = 1.5; // of the zoom, by a button
const NEAR_PX = 14; // from a point is still at it
const STILL_PX = 4; // a pointer that moved no more has clicked
const LABEL_PX = 13_000; // of the picture for each label
const TRIED = 300; // frequent points that may get one

const colourOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const lobeColours = () => Object.fromEntries([0, 1, 2, "none"].map((lobe) => [lobe, colourOf(`--lobe-${lobe}`)]));

export class Drawing {
  /** `look(point)`: the pointer is at a point, or has left it (null). `pick(point)`: it was clicked. */
  constructor(canvas, {look, pick}) {
    Object.assign(this, {canvas, look, pick, points: [], used: new Set(), told: new Set(), current: null});
    this.pen = canvas.getContext("2d");
    this.pointers = new Map();
    this.all();
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    canvas.addEventListener("wheel", (event) => this.#wheel(event), {passive: false});
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#up(event));
    canvas.addEventListener("pointercancel", ({pointerId}) => this.pointers.delete(pointerId));
    canvas.addEventListener("pointerleave", () => this.#lookAt(null));
  }

  show(points) {
    this.points = [...points].sort((a, b) => b.density - a.density); // small ones over large ones
    this.most = Math.max(1e-9, this.points[0]?.density ?? 0);
    this.current = null;
    this.all();
  }

  /** Features with sliders, and those that made the hits, by number. */
  mark(used, told) {
    Object.assign(this, {used, told});
    this.draw();
  }

  // --- where one looks from ---

  all() {
    Object.assign(this, {x: 0, y: 0, zoom: 1});
    this.draw();
  }

  get #unit() { // pixels of a unit of the map
    return this.zoom * MARGIN * Math.min(this.canvas.clientWidth, this.canvas.clientHeight) / 2;
  }

  at({x, y}) {
    const {clientWidth: width, clientHeight: height} = this.canvas;
    return [width / 2 + (x - this.x) * this.#unit, height / 2 - (y - this.y) * this.#unit];
  }

  placeOf(left, top) {
    const {clientWidth: width, clientHeight: height} = this.canvas;
    return [this.x + (left - width / 2) / this.#unit, this.y - (top - height / 2) / this.#unit];
  }

  /** Nearer by a factor; the place at these pixels stays where it is. */
  nearer(factor = STEP, left = this.canvas.clientWidth / 2, top = this.canvas.clientHeight / 2) {
    const [x, y] = this.placeOf(left, top);
    this.zoom = Math.min(MOST_ZOOM, Math.max(1, this.zoom * factor));
    const [nowX, nowY] = this.placeOf(left, top);
    this.#moveTo(this.x + x - nowX, this.y + y - nowY);
  }

  /** Makes a point the current one, in sight. */
  goTo(point) {
    this.current = point;
    const [left, top] = this.at(point), {clientWidth: width, clientHeight: height} = this.canvas;
    const outside = left < 20 || top < 20 || left > width - 20 || top > height - 20;
    if (outside) this.#moveTo(point.x, point.y);
    this.draw();
  }

  #moveTo(x, y) {
    this.x = Math.min(1, Math.max(-1, x));
    this.y = Math.min(1, Math.max(-1, y));
    this.draw();
  }

  // --- the pointer ---

  pointAt({offsetX, offsetY}) {
    return nearest(this.points, ...this.placeOf(offsetX, offsetY), NEAR_PX / this.#unit);
  }

  #wheel(event) {
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    this.nearer(Math.exp(-0.002 * Math.max(-400, Math.min(400, event.deltaY * lines))), event.offsetX, event.offsetY);
  }

  #down(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, {x: event.offsetX, y: event.offsetY, moved: false});
  }

  #move(event) {
    const held = this.pointers.get(event.pointerId);
    if (!held) {
      this.#lookAt(this.pointAt(event));
      return;
    }
    const right = event.offsetX - held.x, down = event.offsetY - held.y;
    const other = [...this.pointers.entries()].find(([id]) => id !== event.pointerId)?.[1];
    if (other) { // two fingers: their distance is the zoom
      const before = Math.hypot(held.x - other.x, held.y - other.y);
      const now = Math.hypot(event.offsetX - other.x, event.offsetY - other.y);
      this.nearer(now / Math.max(before, 1), other.x, other.y);
    } else if (held.moved || Math.hypot(right, down) > STILL_PX) {
      this.#lookAt(null);
      this.#moveTo(this.x - right / this.#unit, this.y + down / this.#unit);
    } else {
      return;
    }
    this.pointers.set(event.pointerId, {x: event.offsetX, y: event.offsetY, moved: true});
  }

  #up(event) {
    const held = this.pointers.get(event.pointerId);
    this.pointers.delete(event.pointerId);
    const point = held?.moved === false ? this.pointAt(event) : null;
    if (!point) return;
    this.current = point;
    this.pick(point);
    this.draw();
  }

  #lookAt(point) {
    if (point === this.looked) return;
    this.looked = point;
    this.canvas.classList.toggle("at-point", point !== null);
    this.look(point);
    this.draw();
  }

  // --- the picture ---

  draw() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.#draw();
    });
  }

  #draw() {
    const {canvas, pen} = this, sharp = devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width || !height) return;
    canvas.width = Math.round(width * sharp); // empties it, too
    canvas.height = Math.round(height * sharp);
    pen.scale(sharp, sharp);
    const dots = this.#dots(width, height), colours = lobeColours();
    for (const {point, left, top, radius} of dots) {
      pen.globalAlpha = this.told.has(point.index) || !this.told.size ? 0.85 : 0.5; // what made the hits stands out
      pen.fillStyle = colours[point.lobe] ?? colours.none;
      pen.beginPath(); // one path for all takes far longer
      pen.arc(left, top, radius, 0, 2 * Math.PI);
      pen.fill();
    }
    pen.globalAlpha = 1;
    const ring = (wanted, colour, thick, out) => {
      pen.strokeStyle = colourOf(colour);
      pen.lineWidth = thick;
      for (const {point, left, top, radius} of dots) {
        if (!wanted(point)) continue;
        pen.beginPath();
        pen.arc(left, top, radius + out, 0, 2 * Math.PI);
        pen.stroke();
      }
    };
    ring(({index}) => this.told.has(index), "--ink", 1, 1);
    ring(({index}) => this.used.has(index), "--ink", 2.5, 3);
    ring((point) => point === this.current || point === this.looked, "--accent", 2, 5);
    this.#labels(dots, width, height);
  }

  /** Where points are, of those in sight: `{point, left, top, radius}` in pixels. */
  #dots(width, height) {
    const unit = this.#unit, grown = Math.min(width / 300, 2) ** 0.5 * this.zoom ** 0.3, dots = [];
    for (const point of this.points) {
      const left = width / 2 + (point.x - this.x) * unit, top = height / 2 - (point.y - this.y) * unit;
      if (left < -20 || top < -20 || left > width + 20 || top > height + 20) continue;
      const least = this.told.has(point.index) || this.used.has(point.index) ? 3 : 0;
      const size = 0.7 + 3.3 * Math.sqrt(point.density / this.most);
      dots.push({point, left, top, radius: Math.max(least, size * grown)});
    }
    return dots;
  }

  /** The first words of some points: those with sliders, of the hits, then the most frequent, where there is room. */
  #labels(dots, width, height) {
    const {pen} = this, taken = [], count = width * height / LABEL_PX;
    const used = dots.filter(({point}) => this.used.has(point.index));
    const told = dots.filter(({point}) => this.told.has(point.index) && !this.used.has(point.index));
    pen.font = `11px ${getComputedStyle(this.canvas).fontFamily}`;
    pen.textBaseline = "middle";
    pen.lineJoin = "round";
    pen.lineWidth = 3;
    pen.strokeStyle = colourOf("--card");
    pen.fillStyle = colourOf("--ink");
    for (const {point, left, top, radius} of [...used, ...told, ...dots.slice(0, TRIED)]) {
      if (taken.length >= count) break;
      const text = shortLabel(point.label, point.index, 1);
      const from = left + radius + 5, to = from + pen.measureText(text).width;
      const apart = taken.every((one) => from > one.to + 6 || to < one.from - 6 || Math.abs(top - one.top) > 15);
      if (!apart || left < 0 || to > width - 2 || top < 8 || top > height - 8) continue;
      taken.push({from, to, top});
      pen.strokeText(text, from, top);
      pen.fillText(text, from, top);
    }
  }
}
