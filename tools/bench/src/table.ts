/** Tables of text. */

/** As many digits as say something. */
export function nanoseconds(value: number | null): string {
  if (value === null) return '-';
  return value < 100 ? value.toFixed(2) : value.toFixed(0);
}

/** Columns as wide as their widest cell, the first to the left and the others to the right. */
export function formatTable(table: readonly string[][]): string {
  const widths = table[0]!.map((_, column) => Math.max(...table.map((cells) => cells[column]!.length)));
  return table
    .map((cells) => cells.map((cell, at) => (at === 0 ? cell.padEnd(widths[0]!) : cell.padStart(widths[at]!))))
    .map((cells) => cells.join('  ').trimEnd())
    .join('\n');
}
