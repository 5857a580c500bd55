/** The curve as a picture: a panel for each job, both axes logarithmic. */

import type { Curve, Point } from './curve.ts';
import { AREA_COUNTS } from './suites.ts';

const WIDTH = 440;
const HEIGHT = 280;
/** The plot inside a panel. */
const LEFT = 62;
const RIGHT = 36;
const TOP = 40;
const BOTTOM = 40;
/** Seen on the background of either colour scheme. */
const STYLE = `
  svg { font: 12px Helvetica, Arial, sans-serif; fill: #1f2328 }
  .paper { fill: #ffffff }
  .grid { stroke: #d1d9e0 }
  .title { font-weight: bold }
  .ts { fill: #0969da; stroke: #0969da; stroke-width: 2 }
  .c { fill: #bc4c00; stroke: #bc4c00; stroke-width: 2 }
  path.c { stroke-dasharray: 6 4 }
  path.ts, path.c { fill: none }
  text.ts, text.c { stroke: none }
  @media (prefers-color-scheme: dark) {
    svg { fill: #f0f6fc }
    .paper { fill: #0d1117 }
    .grid { stroke: #3d444d }
    .ts { fill: #4493f8; stroke: #4493f8 }
    .c { fill: #f0883e; stroke: #f0883e }
  }`;

type Scale = (value: number) => number;

export function drawCurve(curve: Curve): string {
  const columns = 2;
  const size = [columns * WIDTH, Math.ceil(curve.length / columns) * HEIGHT];
  const panels = curve.map(({ title, points }, index) => {
    const at = [(index % columns) * WIDTH, Math.floor(index / columns) * HEIGHT];
    return `<g transform="translate(${at.join(' ')})">${drawPanel(title, points)}</g>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${size.join(' ')}" width="${size[0]}" height="${size[1]}" role="img" aria-label="Cost of operations with 100 to 1,000,000 areas">
<style>${STYLE}
</style>
<rect class="paper" width="${size[0]}" height="${size[1]}"/>
${panels.join('\n')}
</svg>
`;
}

function drawPanel(title: string, points: readonly Point[]): string {
  const values = points.flatMap(({ ts, c }) => (c === null ? [ts] : [ts, c]));
  const low = Math.floor(Math.log10(Math.min(...values)));
  const high = Math.max(Math.ceil(Math.log10(Math.max(...values))), low + 1);
  const [first, last] = [Math.log10(AREA_COUNTS[0]!), Math.log10(AREA_COUNTS[AREA_COUNTS.length - 1]!)];
  const x: Scale = (areas) => LEFT + ((Math.log10(areas) - first) / (last - first)) * (WIDTH - LEFT - RIGHT);
  const y: Scale = (ns) => HEIGHT - BOTTOM - ((Math.log10(ns) - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const parts = [text('title', LEFT, 22, title)];
  for (let power = low; power <= high; power++) {
    const at = y(10 ** power);
    parts.push(`<path class="grid" d="M${LEFT} ${round(at)}H${WIDTH - RIGHT}"/>`);
    parts.push(text('', LEFT - 8, at + 4, time(10 ** power), 'end'));
  }
  for (const areas of AREA_COUNTS) {
    parts.push(text('', x(areas), HEIGHT - BOTTOM + 18, areas.toLocaleString('en'), 'middle'));
  }
  parts.push(
    drawSide(
      'ts',
      'TypeScript',
      points.map(({ areas, ts }) => [x(areas), y(ts)]),
    ),
  );
  const c = points.flatMap(({ areas, c }) => (c === null ? [] : [[x(areas), y(c)]]));
  if (c.length > 0) parts.push(drawSide('c', 'C', c));
  return parts.join('');
}

/** A line with its dots, and its name at the top. */
function drawSide(side: 'ts' | 'c', name: string, points: readonly number[][]): string {
  const line = points.map(([x, y]) => `${round(x!)} ${round(y!)}`).join('L');
  const dots = points.map(([x, y]) => `<circle class="${side}" cx="${round(x!)}" cy="${round(y!)}" r="3"/>`).join('');
  const label = text(side, WIDTH - RIGHT - (side === 'ts' ? 30 : 0), 22, name, 'end');
  return `<path class="${side}" d="M${line}"/>${dots}${label}`;
}

function text(style: string, x: number, y: number, content: string, anchor = 'start'): string {
  return `<text class="${style}" x="${round(x)}" y="${round(y)}" text-anchor="${anchor}">${content}</text>`;
}

function time(ns: number): string {
  if (ns >= 1e9) return `${ns / 1e9} s`;
  if (ns >= 1e6) return `${ns / 1e6} ms`;
  return ns >= 1e3 ? `${ns / 1e3} µs` : `${ns} ns`;
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
