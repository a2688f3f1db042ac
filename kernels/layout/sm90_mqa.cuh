// What the host and the Hopper kernel of the indexer's scores agree on. Compiled by both.
#pragma once
#include "layout/gemm.cuh"
#include "layout/mqa.cuh"

namespace fathom {

/// A request is next_n query tokens that see keys of one sequence: paged calls have them, a ragged call is cut into
/// them. Its keys come in tiles of 64: a page of the cache, half of one or several, or 64 neighbouring rows of k. In
/// shared memory a key and a head of a query have 128 bytes, zeros after a shorter one's, and a token has as
/// many heads as a matrix instruction takes, zeros after the last.
struct Sm90MqaKernel {
  TensorMap keys;  // [pages, page, dim] or [keys, dim], boxes of up to 64 keys, 128-byte swizzle
  TensorMap q;     // [requests, next_n, heads, dim] or [tokens, heads, dim], boxes of one token or a request's, 128-byte swizzle
  PagedMqaLogitsKernel paged;
  int requests, next_n;
  int stages;    // tiles of keys under way; but for one or two tokens a power of two, at least 2 * kSm90MqaSets
  int q_stages;  // requests under way, 1 or 2
  MqaLogitsKernel ragged;
};

inline constexpr int kSm90MqaGroups = 2;                 // warpgroups that score
inline constexpr int kSm90MqaSets = 2 * kSm90MqaGroups;  // of tokens that they score at a time
inline constexpr int kSm90MqaThreads = 128 * (kSm90MqaGroups + 1);
/// Registers of a scorer's thread, for products of this many columns. The rest of what the launch gave is the loader's.
inline constexpr int sm90_mqa_scorer_registers(int columns) { return columns < 128 ? 208 : 224; }
inline constexpr int sm90_mqa_loader_registers(int columns) {
  return (kSm90MqaGroups + 1) * (65536 / kSm90MqaThreads / 8 * 8) - kSm90MqaGroups * sm90_mqa_scorer_registers(columns);
}
inline constexpr int kSm90MqaStaticBytes = 64;  // of shared memory, beside what a launch asks for
inline constexpr int kSm90MqaRequests = 4096;  // at most: their tiles are counted in shared memory
inline constexpr int kSm90MqaTile = kMqaKeys * 128;

/// The kernel for one or two tokens a request: warpgroups that score, and registers of their threads and the loader's.
inline constexpr int sm90_mqa_decode_groups(int tokens) { return tokens == 1 ? 4 : 3; }
inline constexpr int sm90_mqa_decode_threads(int tokens) { return 128 * (sm90_mqa_decode_groups(tokens) + 1); }
/// Tiles under way: every one of a place is scored by the same warpgroup, and loaded by the same of four warps.
inline constexpr int sm90_mqa_decode_stages(int tokens) { return tokens == 1 ? 8 : 12; }
inline constexpr int sm90_mqa_decode_registers(int tokens) { return tokens == 1 ? 104 : 144; }
inline constexpr int kMqaDecodeLoaderRegisters = 64;

/// Heads of a request's tokens: two tokens share an instruction, so there is room for an even number of them.
inline constexpr int sm90_mqa_rows(int next_n, int heads) {
  return (next_n == 1 || heads > 64 ? next_n : (next_n + 1) / 2 * 2) * heads;
}
/// Shared memory of the parts, which follow each other in this order after a ring of `stages` tiles.
inline constexpr int sm90_mqa_q_bytes(int rows) { return (rows * 128 + 1023) / 1024 * 1024; }
inline constexpr int sm90_mqa_shared_bytes(int requests, int rows, int stages, int q_stages) {
  const int ring = stages * (kSm90MqaTile + 4 * kMqaKeys + 16 + 16);  // keys, scales, what a tile is, two barriers
  const int queries = q_stages * (sm90_mqa_q_bytes(rows) + 4 * rows + 16);
  return 1024 + ring + queries + 4 * (requests + 4);
}

}  // namespace fathom
