export { type Comparison, compareWithTable, type Exceptions } from './compare.ts';
export { readTable } from './table.ts';
