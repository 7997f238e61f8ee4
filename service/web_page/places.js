// Places on the map: which point is where somebody points, and which is next in a direction.

const DIRECTIONS = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]};

export const isArrow = (key) => key in DIRECTIONS;

/** The point nearest to a place, within a distance; null if there is none. */
export function nearest(points, x, y, within = Infinity) {
  let found = null, least = within;
  for (const point of points) {
    const distance = Math.hypot(point.x - x, point.y - y);
    if (distance < least) [found, least] = [point, distance];
  }
  return found;
}

/** The nearest point on the side that an arrow key shows to, rather ahead than aside; null at the border. */
export function next(points, from, key) {
  const [right, up] = DIRECTIONS[key];
  let found = null, least = Infinity;
  for (const point of points) {
    const x = point.x - from.x, y = point.y - from.y;
    const ahead = x * right + y * up, aside = Math.abs(x * up) + Math.abs(y * right);
    if (ahead <= 0) continue;
    const cost = Math.hypot(ahead, aside) + (aside > ahead ? 4 * (aside - ahead) : 0);
    if (cost < least) [found, least] = [point, cost];
  }
  return found;
}
