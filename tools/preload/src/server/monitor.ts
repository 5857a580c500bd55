/**
 * A socket beside that of the calls, for those who look at the server from outside: who connects is told what the open
 * contexts of /dev/iommu hold, in JSON, and disconnected. It has a path of its own, as the preloaded library takes every
 * connection to the server's for an open file.
 */

import { connect, createServer, type Server as NetServer } from 'node:net';
import { dirname, join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import type { ContextDump } from '@iommukit/iommufd';

/** Where the monitor of the server at `path` listens. */
function monitorPath(path: string): string {
  return join(dirname(path), 'monitor');
}

/** Listens for the server at `path`. @throws {Error} nothing can be made there */
export async function listenMonitor(path: string, dump: () => ContextDump[]): Promise<NetServer> {
  const net = createServer((socket) => {
    socket.on('error', () => {});
    settled().then(() => socket.end(JSON.stringify(dump())));
  });
  await new Promise<void>((resolve, reject) => {
    net.once('error', reject);
    net.listen(monitorPath(path), resolve);
  });
  return net;
}

/** Waits until all that programs have closed until now has been taken note of. */
export async function settled(): Promise<void> {
  for (let i = 0; i < 3; i++) await turn();
}

/** Asks the monitor of the server at `path`. @throws {Error} nobody is there */
export async function askMonitor(path: string): Promise<ContextDump[]> {
  const socket = connect(monitorPath(path));
  let text = '';
  socket.setEncoding('utf8');
  for await (const part of socket) text += part;
  return JSON.parse(text);
}
