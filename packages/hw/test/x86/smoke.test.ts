import { expect, test } from 'vitest';
import { CpuFixture, CODE } from '../support/cpu-fixture.ts';

test('smoke', () => {
  const f = new CpuFixture();
  // mov eax,5; add rax,rax; mov [0x30000],rax ; hlt
  f.start([0xb8,5,0,0,0, 0x48,0x01,0xc0, 0x48,0x89,0x04,0x25,0,0,3,0, 0xf4]);
  expect(f.cpu.run(100)).toBe('dead');
  expect(f.read64(0x30000n)).toBe(10n);
  expect(f.cpu.instructions).toBe(9n+4n);
  f.start([0x0f,0x0b]);
  expect(f.cpu.run(100)).toBe('dead');
  expect(f.haltedVector()).toBe(6);
  expect(f.frame(false).rip).toBe(CODE);
});
test('bench', () => {
  const f = new CpuFixture();
  // loop: add rax,rcx ; xor rdx,rax; lea rbx,[rdx+rcx*2]; mov [0x30000],rbx; imul; dec ecx...; jnz
  const code = [
    0x48,0xb9,0,0,0,0,1,0,0,0, // mov rcx, 1<<32
    0x48,0x01,0xc8, 0x48,0x31,0xc2, 0x48,0x8d,0x1c,0x4a, 0x48,0xc1,0xe3,0x03, 0x48,0x83,0xe9,0x01, 0x75,0x100-20];
  f.start(code);
  for (let i=0;i<6;i++){ const t=performance.now(); expect(f.cpu.run(20_000_000)).toBe('budget'); console.log((20000/(performance.now()-t)).toFixed(1),'MIPS'); }
  const code2 = [
    0x48,0xb9,0,0,0,0,1,0,0,0, // mov rcx, 1<<32
    0x48,0x8b,0x04,0x25,0,0,3,0, // mov rax,[0x30000]
    0x48,0x01,0xc8, 
    0x48,0x89,0x04,0x25,0,0,3,0, // store
    0x48,0x39,0xc8, 0x77,2, 0x31,0xd2, 
    0x48,0x83,0xe9,0x01, 0x75,0x100-32];
  f.start(code2);
  for (let i=0;i<6;i++){ const t=performance.now(); expect(f.cpu.run(20_000_000)).toBe('budget'); console.log((20000/(performance.now()-t)).toFixed(1),'MIPS mem'); }
});
