import { compareWithTable, readTable } from '@iommukit/uapi';
import { expect, test } from 'vitest';
import { TEST_CMD_MIN, TEST_CMD_SIZE, testCmdHead, testCmdMembers } from '../../src/selftest/test-cmd.ts';
import * as uapi from '../../src/selftest/uapi.ts';

const table = readTable('iommufd-test');

test('numbers and structures are those of iommufd_test.h', () => {
  const { structures, numbers, differences } = compareWithTable(uapi, table);
  expect(differences).toEqual([]);
  expect([structures > 5, numbers > 40]).toEqual([true, true]);
});

test('every member of the structure of IOMMU_TEST_CMD is where the kernel has it', () => {
  const theirs = table.structures['iommu_test_cmd']!;
  expect([theirs.size, theirs.fields['last']]).toEqual([TEST_CMD_SIZE, [TEST_CMD_MIN - 4, 4]]);
  const snake = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  const ours = Object.entries(testCmdMembers).flatMap(([member, layout]) =>
    Object.keys(layout.read(new Uint8Array(layout.size))).map((name) => {
      const field = name as never;
      const from = layout.offset(field);
      return [`${snake(member)}.${snake(name)}`, [testCmdHead.size + from, layout.end(field) - from]];
    }),
  );
  const members = Object.entries(theirs.fields).filter(([path]) => path.includes('.'));
  expect(Object.fromEntries(ours)).toEqual(Object.fromEntries(members));
});
