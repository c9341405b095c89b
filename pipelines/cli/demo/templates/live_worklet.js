// Converts the microphone's samples to 16-bit integers at 16 kHz, in pieces of 0.1 s.
"use strict";

const RATE = 16000;
const PIECE = RATE / 10;

class Pcm extends AudioWorkletProcessor {
  constructor() {
    super();
    this.step = sampleRate / RATE; // samples of the device for one that is sent
    this.next = 0; // place of the next one, counted from the begin of the current block
    this.last = 0; // the sample before the current block
    this.piece = new Int16Array(PIECE);
    this.filled = 0;
  }

  process([[block]]) {
    if (!block) return true;
    for (; this.next <= block.length - 1; this.next += this.step) {
      const left = Math.floor(this.next);
      const share = this.next - left;
      const before = left < 0 ? this.last : block[left];
      const after = share ? block[left + 1] : 0;
      this.add(before + share * (after - before));
    }
    this.next -= block.length;
    this.last = block[block.length - 1];
    return true;
  }

  add(sample) {
    const bounded = Math.max(-1, Math.min(1, sample));
    this.piece[this.filled++] = Math.round(bounded * 32767);
    if (this.filled < PIECE) return;
    this.port.postMessage(this.piece.buffer, [this.piece.buffer]);
    this.piece = new Int16Array(PIECE);
    this.filled = 0;
  }
}

registerProcessor("mistere-pcm", Pcm);
