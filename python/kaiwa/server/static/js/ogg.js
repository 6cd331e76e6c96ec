// Ogg pages (RFC 3533) with Opus packets (RFC 7845): the little of it that a conversation needs.

const CRC = (() => {
  const table = new Uint32Array(256);
  for (let i = 0; i < 256; i++) {
    let r = i << 24;
    for (let k = 0; k < 8; k++) r = r & 0x80000000 ? (r << 1) ^ 0x04c11db7 : r << 1;
    table[i] = r >>> 0;
  }
  return table;
})();

const PAGE_HEADER = 27;
const CRC_AT = 22;
const CAPTURE = [0x4f, 0x67, 0x67, 0x53]; // OggS
const MAX_HELD = 1 << 17; // bytes kept while the rest of a page is awaited
const MAX_PACKET = 1 << 16;

/** CRC of a page whose checksum field counts as zero. */
function checksum(page) {
  let crc = 0;
  for (let i = 0; i < page.length; i++) {
    const byte = i >= CRC_AT && i < CRC_AT + 4 ? 0 : page[i];
    crc = ((crc << 8) ^ CRC[(crc >>> 24) ^ byte]) >>> 0;
  }
  return crc;
}

const ascii = (text) => Uint8Array.from(text, (c) => c.charCodeAt(0));

const startsWith = (bytes, text) => {
  if (bytes.length < text.length) return false;
  for (let i = 0; i < text.length; i++) if (bytes[i] !== text.charCodeAt(i)) return false;
  return true;
};

/** Joins pieces into one array. */
export function concat(pieces) {
  const out = new Uint8Array(pieces.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const piece of pieces) {
    out.set(piece, at);
    at += piece.length;
  }
  return out;
}

/** Writes one mono Opus stream, one packet on each page. */
export class OggWriter {
  #serial;
  #sequence = 0;
  #granule = 0;

  constructor(serial = Math.floor(Math.random() * 0xffffffff)) {
    this.#serial = serial >>> 0;
  }

  /** The two pages that begin the stream. */
  headers({ preSkip = 312, inputRate = 24000, vendor = "kaiwa-web" } = {}) {
    const head = new Uint8Array(19);
    head.set(ascii("OpusHead"));
    const view = new DataView(head.buffer);
    view.setUint8(8, 1); // version
    view.setUint8(9, 1); // channels
    view.setUint16(10, preSkip, true);
    view.setUint32(12, inputRate, true);
    // output gain 0, mapping family 0: already zero
    const tags = new Uint8Array(8 + 4 + vendor.length + 4);
    tags.set(ascii("OpusTags"));
    new DataView(tags.buffer).setUint32(8, vendor.length, true);
    tags.set(ascii(vendor), 12);
    return concat([this.#page(head, 0x02, 0), this.#page(tags, 0, 0)]);
  }

  /** The page of one packet that lasts `samples` at 48 kHz. */
  packet(data, samples) {
    this.#granule += samples;
    return this.#page(data, 0, this.#granule);
  }

  #page(body, flags, granule) {
    const laces = Math.floor(body.length / 255) + 1;
    if (laces > 255) throw new RangeError(`a packet of ${body.length} bytes fits no page`);
    const page = new Uint8Array(PAGE_HEADER + laces + body.length);
    const view = new DataView(page.buffer);
    page.set(CAPTURE);
    view.setUint8(5, flags);
    view.setBigUint64(6, BigInt(granule), true);
    view.setUint32(14, this.#serial, true);
    view.setUint32(18, this.#sequence++, true);
    view.setUint8(26, laces);
    page.fill(255, PAGE_HEADER, PAGE_HEADER + laces - 1);
    page[PAGE_HEADER + laces - 1] = body.length % 255;
    page.set(body, PAGE_HEADER + laces);
    view.setUint32(CRC_AT, checksum(page), true);
    return page;
  }
}

/**
 * Reads Opus packets out of bytes that arrive in any pieces. Pages with a wrong checksum are
 * passed over, and so are bytes between pages.
 */
export class OggReader {
  #held = new Uint8Array(0);
  #partial = []; // pieces of a packet that goes on in the next page
  damaged = 0;

  /** Returns what the bytes complete: `{head}` where a stream begins, `{packet}` otherwise. */
  push(bytes) {
    let data = this.#held.length ? concat([this.#held, bytes]) : bytes;
    const found = [];
    let at = 0;
    for (;;) {
      at = this.#find(data, at);
      const size = this.#pageSize(data, at);
      if (size === 0 || at + size > data.length) break;
      const page = data.subarray(at, at + size);
      const view = new DataView(page.buffer, page.byteOffset, page.byteLength);
      if (view.getUint32(CRC_AT, true) !== checksum(page)) {
        this.damaged++;
        this.#partial = [];
        at += 4;
        continue;
      }
      this.#packets(page, found);
      at += size;
    }
    data = data.subarray(at);
    this.#held = data.length > MAX_HELD ? new Uint8Array(0) : data.slice();
    return found;
  }

  #find(data, at) {
    for (; at + 4 <= data.length; at++) {
      if (CAPTURE.every((byte, i) => data[at + i] === byte)) return at;
    }
    return at;
  }

  #pageSize(data, at) {
    if (at + PAGE_HEADER > data.length) return 0;
    const laces = data[at + 26];
    if (at + PAGE_HEADER + laces > data.length) return 0;
    let size = PAGE_HEADER + laces;
    for (let i = 0; i < laces; i++) size += data[at + PAGE_HEADER + i];
    return size;
  }

  #packets(page, found) {
    const flags = page[5];
    const laces = page[26];
    let at = PAGE_HEADER + laces;
    let from = at;
    let skipping = false;
    if (flags & 1) skipping = this.#partial.length === 0; // its beginning was lost
    else this.#partial = [];
    for (let i = 0; i < laces; i++) {
      const lace = page[PAGE_HEADER + i];
      at += lace;
      if (lace === 255) continue;
      const packet = concat([...this.#partial, page.subarray(from, at)]);
      this.#partial = [];
      from = at;
      if (skipping) skipping = false;
      else this.#deliver(packet, found);
    }
    if (from < at && !skipping) {
      const held = this.#partial.reduce((n, p) => n + p.length, 0);
      if (held + at - from > MAX_PACKET) this.#partial = [];
      else this.#partial.push(page.slice(from, at));
    }
  }

  #deliver(packet, found) {
    if (startsWith(packet, "OpusHead")) found.push({ head: packet });
    else if (packet.length && !startsWith(packet, "OpusTags")) found.push({ packet });
  }
}
