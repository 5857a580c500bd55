export { type Comparison, compareWithTable, type Exceptions } from './compare.ts';
export type { UapiTable } from './table.ts';
