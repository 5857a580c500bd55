/**
 * Calls by way of the preloaded library: Unix stream sockets, with the messages of shim/protocol.h. A process's
 * questions come on one connection, and each open file is a connection of its own, named by the inode of the program's
 * end. The last close of it, whoever made it, is the end of that connection.
 *
 * Everything that has arrived in one turn of the event loop is taken together: first the ends, then the questions. A
 * program that closes a file and then asks for something finds the file closed.
 */

import { readlinkSync } from 'node:fs';
import { createServer, type Server as NetServer, type Socket } from 'node:net';
import type { Answer, Call, CallContext, FileKey } from './call.ts';
import type { Client } from './client.ts';
import * as protocol from './protocol.ts';
import type { CallHandler, Transport } from './transport.ts';

const EIO = 5;
const EINVAL = 22;

/** Flags of mmap(2). */
const MAP_TYPE = 0xfn;
const MAP_SHARED = 1;
const MAP_SHARED_VALIDATE = 3;

type Question = protocol.Question;

/** A descriptor that shows as readable and is no more; emptied when its process next asks. */
type Drain = { readonly key: FileKey; pid: number; fd: number };

/** Where a process's eventfds are signalled, and how often they have been. */
type Events = { readonly socket: Socket; signals: number };

/** One connection, which is nothing yet until its first message. */
type Connection = { readonly socket: Socket; received: Buffer; role: Role };

type Role =
  | { readonly kind: 'new' }
  | { readonly kind: 'process'; readonly client: Client }
  | { readonly kind: 'file'; readonly key: FileKey }
  | { readonly kind: 'events' };

export class UnixTransport implements Transport {
  readonly environment: { readonly [name: string]: string };
  private readonly handler: CallHandler;
  private readonly net: NetServer;
  private readonly connections = new Set<Connection>();
  private readonly clients = new Map<number, { client: Client; connections: number }>();
  private readonly events = new Map<Client, Events>();
  /** Where each file was last seen. */
  private readonly places = new Map<FileKey, Drain>();
  private drains: Drain[] = [];
  private ended: Connection[] = [];
  private questions: { connection: Connection; client: Client; question: Question }[] = [];
  private scheduled = false;

  private constructor(handler: CallHandler, path: string) {
    this.handler = handler;
    this.environment = { IOMMUKIT_SOCKET: path };
    this.net = createServer((socket) => this.accept(socket));
  }

  /** Listens at `path`. @throws {Error} nothing can be made there */
  static async listen(handler: CallHandler, path: string): Promise<UnixTransport> {
    const transport = new UnixTransport(handler, path);
    await new Promise<void>((resolve, reject) => {
      transport.net.once('error', reject);
      transport.net.listen({ path, backlog: 511 }, resolve);
    });
    return transport;
  }

  close(): void {
    this.net.close();
    for (const { socket } of this.connections) socket.destroy();
  }

  private accept(socket: Socket): void {
    const connection: Connection = { socket, received: Buffer.alloc(0), role: { kind: 'new' } };
    this.connections.add(connection);
    socket.on('data', (bytes) => this.receive(connection, bytes));
    socket.on('error', () => {});
    socket.on('end', () => this.end(connection));
    socket.on('close', () => this.end(connection));
  }

  private end(connection: Connection): void {
    if (!this.connections.delete(connection)) return;
    connection.socket.destroy();
    this.ended.push(connection);
    this.schedule();
  }

  private receive(connection: Connection, bytes: Buffer): void {
    connection.received = connection.received.length === 0 ? bytes : Buffer.concat([connection.received, bytes]);
    while (connection.received.length >= protocol.questionLayout.size) {
      const length = connection.received.readUInt32LE(0);
      if (length < protocol.questionLayout.size || length > protocol.QUESTION_MAX) {
        connection.socket.destroy();
        return;
      }
      if (connection.received.length < length) return;
      const message = connection.received.subarray(0, length);
      connection.received = connection.received.subarray(length);
      const path = message.toString('latin1', protocol.questionLayout.size);
      this.hear(connection, { ...protocol.questionLayout.read(message), path });
    }
  }

  private hear(connection: Connection, question: Question): void {
    const { role, socket } = connection;
    if (role.kind === 'process') {
      this.questions.push({ connection, client: role.client, question });
      this.schedule();
    } else if (role.kind !== 'new') {
      socket.destroy();
    } else if (question.kind === protocol.ASK_PROCESS) {
      this.meet(connection, question);
    } else if (question.kind === protocol.ASK_FILE) {
      this.offer(connection, Number(question.inode));
    } else if (question.kind === protocol.ASK_EVENTS) {
      const client = this.clients.get(Number(question.argument0))?.client;
      if (client === undefined) {
        socket.destroy();
        return;
      }
      connection.role = { kind: 'events' };
      this.events.set(client, { socket, signals: 0 });
      socket.write('\0');
    } else {
      socket.destroy();
    }
  }

  /** A process that asks for the first time, or again after it has lost its connection. */
  private meet(connection: Connection, question: Question): void {
    const pid = Number(question.argument0);
    const known = this.clients.get(Number(question.argument1));
    let result = -EIO;
    try {
      if (known !== undefined && known.client.pid === pid) {
        known.connections++;
        connection.role = { kind: 'process', client: known.client };
        result = known.client.number;
      } else if (!hasSocket(pid, question)) {
        this.handler.refuse(pid, 'it has not the number that it says it has: is it in another PID namespace?');
      } else {
        const client: Client = this.handler.connect(pid, (key) => this.signal(client, key));
        this.clients.set(client.number, { client, connections: 1 });
        connection.role = { kind: 'process', client };
        result = client.number;
      }
    } catch (error) {
      this.handler.refuse(pid, `its memory cannot be reached: ${(error as Error).message}`);
    }
    connection.socket.write(encode({ result }));
  }

  private offer(connection: Connection, key: FileKey): void {
    const { socket } = connection;
    const isNew = this.handler.offer(key, (readable) => {
      const due = this.drains.findIndex((drain) => drain.key === key);
      if (!readable) this.drains.push(this.places.get(key) ?? { key, pid: 0, fd: -1 });
      else if (due >= 0) this.drains.splice(due, 1);
      else socket.write('\0');
    });
    if (!isNew) {
      socket.destroy();
      return;
    }
    connection.role = { kind: 'file', key };
    socket.write('\0');
  }

  private signal(client: Client, key: bigint): void {
    const events = this.events.get(client);
    if (events === undefined) return;
    const message = Buffer.alloc(8);
    message.writeBigUInt64LE(key);
    events.socket.write(message);
    events.signals++;
  }

  private schedule(): void {
    if (this.scheduled) return;
    this.scheduled = true;
    setImmediate(() => {
      this.scheduled = false;
      for (const connection of this.ended.splice(0)) this.forget(connection);
      for (const { connection, client, question } of this.questions.splice(0)) {
        if (connection.socket.writable) connection.socket.write(this.answer(client, question));
      }
    });
  }

  private forget({ role, socket }: Connection): void {
    if (role.kind === 'file') {
      this.places.delete(role.key);
      this.drains = this.drains.filter(({ key }) => key !== role.key);
      this.handler.close(role.key);
    } else if (role.kind === 'process') {
      const known = this.clients.get(role.client.number)!;
      if (--known.connections > 0) return;
      this.clients.delete(role.client.number);
      this.events.get(role.client)?.socket.destroy();
      this.events.delete(role.client);
      this.handler.disconnect(role.client);
    } else if (role.kind === 'events') {
      for (const [client, own] of this.events) if (own.socket === socket) this.events.delete(client);
    }
  }

  private answer(client: Client, question: Question): Uint8Array {
    const key = Number(question.inode);
    if (key !== 0) this.see(key, client.pid, question.fd);
    const call = toCall(question, key);
    const answer = call === null ? { result: -EINVAL } : this.handler.serve(client, call, toContext(question));
    if (answer.offerTaken === true) this.see(Number(question.offeredInode), client.pid, question.offeredFd);
    return encode(answer, this.takeDrain(client.pid), this.events.get(client)?.signals ?? 0);
  }

  private see(key: FileKey, pid: number, fd: number): void {
    const place = this.places.get(key);
    if (place === undefined) this.places.set(key, { key, pid, fd });
    else Object.assign(place, { pid, fd });
  }

  private takeDrain(pid: number): Drain | null {
    const index = this.drains.findIndex((drain) => drain.pid === pid);
    return index < 0 ? null : this.drains.splice(index, 1)[0]!;
  }
}

/** Whether a process is the one that sent its number. */
function hasSocket(pid: number, { fd, inode }: Question): boolean {
  try {
    return readlinkSync(`/proc/${pid}/fd/${fd}`) === `socket:[${inode}]`;
  } catch {
    return false;
  }
}

function toCall(question: Question, file: FileKey): Call | null {
  const { argument0, argument1, argument2 } = question;
  switch (question.kind) {
    case protocol.ASK_OPEN:
      return { kind: 'open', path: question.path };
    case protocol.ASK_IOCTL:
      return { kind: 'ioctl', file, request: Number(argument0 & 0xffffffffn), argument: argument1 };
    case protocol.ASK_READ:
    case protocol.ASK_WRITE: {
      const position = BigInt.asIntN(64, argument2) < 0n ? null : argument2;
      const kind = question.kind === protocol.ASK_READ ? 'read' : 'write';
      return { kind, file, buffer: argument0, bytes: argument1, position };
    }
    case protocol.ASK_MMAP: {
      const shared = [MAP_SHARED, MAP_SHARED_VALIDATE].includes(Number(argument2 & MAP_TYPE));
      const protection = Number(argument1 & 7n);
      return { kind: 'mmap', file, length: argument0, protection, shared, offset: question.argument3 };
    }
    case protocol.ASK_MAPPINGS:
      return { kind: 'mappings' };
    case protocol.ASK_STATUS:
      return { kind: 'status', pid: Number(argument0) };
    case protocol.ASK_NODE:
      return file === 0 ? { kind: 'node', path: question.path } : { kind: 'node-of', file };
    default:
      return null;
  }
}

function toContext({ tid, layout, offeredInode, offeredFd }: Question): CallContext {
  const offer = offeredInode === 0n ? null : { key: Number(offeredInode), fd: offeredFd };
  return { tid, layout, offer };
}

function encode(answer: Answer, drain: Drain | null = null, signals = 0): Uint8Array {
  const { result, values = [0n, 0n], offerTaken, offerWanted, holdWanted } = answer;
  const bytes = new Uint8Array(protocol.answerLayout.size);
  let flags = 0;
  if (offerTaken === true) flags |= protocol.ANSWER_OFFER_TAKEN;
  if (offerWanted === true) flags |= protocol.ANSWER_OFFER_WANTED;
  if (holdWanted !== undefined) flags |= protocol.ANSWER_HOLD_WANTED;
  if (drain !== null) flags |= protocol.ANSWER_DRAIN;
  protocol.answerLayout.write(
    {
      result: BigInt.asUintN(64, BigInt(result)),
      flags,
      drainFd: drain?.fd ?? -1,
      drainInode: BigInt(drain?.key ?? 0),
      value0: holdWanted === undefined ? values[0] : BigInt(holdWanted.fd),
      value1: holdWanted === undefined ? values[1] : holdWanted.key,
      signals: BigInt(signals),
    },
    bytes,
  );
  return bytes;
}
