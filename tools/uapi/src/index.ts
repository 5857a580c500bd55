export { type Comparison, compareWithTable, type Exceptions } from './compare.ts';
export { installedHeaders, kernelVersion } from './linux-tree.ts';
export { readTable } from './table.ts';
export { compareTree, type TreeComparison } from './tree.ts';
