// Splits matrix products into pieces for the threads and chooses the instruction-set version.
#include "cpu/gemm.hpp"

#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

#include "core/cpu_target.hpp"
#include "cpu/gemm_impl.hpp"
#include "fathom/core/buffer.hpp"

namespace fathom::cpu {

GemmScale gemm_scale(const TensorView& scale, std::int64_t rows) {
  if (!scale.given()) return {};
  return {scale.data, scale.dtype == DType::i32, scale.step(0), scale.step(1), rows};
}

Gemm Gemm::of(const TensorView& a, const TensorView& b, const TensorView& out) {
  return {.m = a.size(0),
          .n = b.size(0),
          .k = a.size(1),
          .a = a.data,
          .a_dtype = a.dtype,
          .a_stride = a.step(0),
          .b = b.data,
          .b_dtype = b.dtype,
          .b_stride = b.step(0),
          .out = out.data,
          .out_dtype = out.dtype,
          .out_stride = out.step(0)};
}

void link_weights(std::span<Gemm> products) {
  for (std::size_t i = 1; i < products.size(); ++i) {
    Gemm& a = products[i - 1];
    const Gemm& b = products[i];
    const bool alike = a.n == b.n && a.k == b.k && a.b_stride == b.b_stride && a.b_dtype == b.b_dtype;
    a.next_b = alike ? b.b : nullptr;
  }
}

namespace {
// Grows, is never moved while it is in use, and is kept from call to call.
std::byte* grown(Buffer& buffer, std::int64_t bytes) {
  if (buffer.size() < bytes) buffer = Buffer(bytes + bytes / 2);
  return buffer.data();
}
}  // namespace

std::byte* gemm_scratch(std::int64_t bytes) {
  thread_local Buffer buffer;
  return grown(buffer, bytes);
}

namespace {
constexpr std::int64_t kColumns = 64;       // of one piece of work, at most
constexpr std::int64_t kLeastColumns = 32;  // where pieces are few: the threads should end together
constexpr std::int64_t kPiecesPerThread = 12;
// With as many columns for every thread, each packs the rows it needs itself: lines that one core writes and
// another reads cost more than packing twice. With fewer, the threads share the packing.
constexpr std::int64_t kOwnColumns = 128;
constexpr std::int64_t kPackedBytes = 16 << 20;  // of left operands at once, unless one block alone has more
// Waking a thread costs some microseconds: a task is worth at least as much.
constexpr double kTaskNanoseconds = 8000;

// A block of rows of one product.
struct Block {
  const Gemm* gemm;
  std::int64_t first;
  std::int64_t rows;
  std::int64_t packed;   // where in the packed memory
  std::int64_t row;      // number of its first row among all rows of the round
  std::int64_t piece;    // number of its first piece among all pieces of the round
  std::int64_t columns;  // of one piece
  std::int64_t pieces() const { return (gemm->n + columns - 1) / columns; }
};

// Rough nanoseconds of one piece on one core: the weights' way from memory, and the arithmetic.
double piece_cost(const Block& block, const GemmKernel& kernel) {
  const auto elements = static_cast<double>(block.columns * block.gemm->k);
  return elements * (static_cast<double>(size_of(block.gemm->b_dtype)) / kernel.weight_rate +
                     static_cast<double>(block.rows) / kernel.product_rate);
}

std::int64_t grain(double cost, std::int64_t count) {
  return static_cast<std::int64_t>(kTaskNanoseconds * static_cast<double>(count) / std::max(cost, 1.0)) + 1;
}

// Calls visit(block, begin, end) for every part of a block's share of [begin, end).
template <class Share, class Visit>
void for_each_share(const std::vector<Block>& blocks, std::int64_t begin, std::int64_t end, Share share,
                    Visit visit) {
  for (const Block& block : blocks) {
    const auto [first, count] = share(block);
    const std::int64_t from = std::max(begin, first);
    const std::int64_t to = std::min(end, first + count);
    if (from < to) visit(block, from - first, to - first);
  }
}

// The block's rows, packed by the thread that calls, unless they are what it packed last. `key` is a number
// that no other block of any product has.
const std::byte* own_rows(const Block& block, const GemmKernel& kernel, std::uint64_t key) {
  thread_local std::uint64_t packed_key = 0;
  thread_local Buffer buffer;
  std::byte* packed = grown(buffer, round_up_64(kernel.packed_bytes(*block.gemm, block.rows)));
  if (packed_key != key) {
    packed_key = 0;
    kernel.pack(*block.gemm, block.first, block.rows, 0, block.rows, packed);
    packed_key = key;
  }
  return packed;
}

// Packs the blocks' rows (`bytes` in all), then computes their columns; on the context's threads if there is
// enough to do.
void run_round(std::vector<Block>& blocks, const GemmKernel& kernel, std::int64_t bytes, Buffer& buffer,
               const Context& context) {
  const Block& last = blocks.back();
  if (last.piece + last.pieces() < kPiecesPerThread * context.threads()) {
    std::int64_t piece = 0;
    for (Block& block : blocks) {
      block.columns = kLeastColumns;
      block.piece = piece;
      piece += block.pieces();
    }
  }
  double pack_cost = 0;
  double cost = 0;
  for (const Block& block : blocks) {
    pack_cost += static_cast<double>(block.rows * block.gemm->k) / 15;
    cost += static_cast<double>(block.pieces()) * piece_cost(block, kernel);
  }
  std::int64_t columns = 0;
  for (const Block& block : blocks) columns += block.gemm->n;
  const bool own = columns >= kOwnColumns * context.threads();
  static std::atomic<std::uint64_t> keys = 1;
  const std::uint64_t key = keys.fetch_add(blocks.size());
  std::byte* packed = own ? nullptr : grown(buffer, bytes);
  if (!own) {
    const std::int64_t rows = last.row + last.rows;
    context.parallel_for(rows, grain(pack_cost, rows), [&](std::int64_t begin, std::int64_t end) {
      for_each_share(
          blocks, begin, end, [](const Block& block) { return std::pair(block.row, block.rows); },
          [&](const Block& block, std::int64_t from, std::int64_t to) {
            kernel.pack(*block.gemm, block.first, block.rows, from, to, packed + block.packed);
          });
    });
  }
  const std::int64_t pieces = last.piece + last.pieces();
  context.parallel_for(pieces, grain(cost, pieces), [&](std::int64_t begin, std::int64_t end) {
    for_each_share(
        blocks, begin, end, [](const Block& block) { return std::pair(block.piece, block.pieces()); },
        [&](const Block& block, std::int64_t from, std::int64_t to) {
          const std::byte* block_rows =
              own ? own_rows(block, kernel, key + static_cast<std::uint64_t>(&block - blocks.data()))
                  : packed + block.packed;
          kernel.columns(*block.gemm, block.first, block.rows, block_rows, from * block.columns,
                         std::min(block.gemm->n, to * block.columns));
        });
  });
}

// All products of a call have the same dtypes, so one kernel serves them.
void run_all(std::span<const Gemm> products, const GemmKernel& kernel, const Context& context) {
  thread_local std::vector<Block> blocks;
  thread_local Buffer buffer;
  blocks.clear();
  std::int64_t bytes = 0;
  const auto flush = [&] {
    if (!blocks.empty()) run_round(blocks, kernel, bytes, buffer, context);
    blocks.clear();
    bytes = 0;
  };
  for (const Gemm& gemm : products) {
    if (gemm.n == 0) continue;
    const std::int64_t count = (gemm.m + kernel.most_rows - 1) / kernel.most_rows;
    for (std::int64_t b = 0; b < count; ++b) {
      const std::int64_t first = gemm.m * b / count;
      const std::int64_t rows = gemm.m * (b + 1) / count - first;
      const std::int64_t more = round_up_64(kernel.packed_bytes(gemm, rows));
      if (bytes + more > kPackedBytes) flush();
      const bool start = blocks.empty();
      blocks.push_back({.gemm = &gemm,
                        .first = first,
                        .rows = rows,
                        .packed = bytes,
                        .row = start ? 0 : blocks.back().row + blocks.back().rows,
                        .piece = start ? 0 : blocks.back().piece + blocks.back().pieces(),
                        .columns = kColumns});
      bytes += more;
    }
  }
  flush();
}
}  // namespace

void gemm_all(std::span<const Gemm> products, const Context& context) {
  if (products.empty()) return;
  const bool bf16 = products.front().a_dtype != DType::f32 && has_avx512_bf16();
  run_all(products, bf16 ? gemm_kernel_avx512_bf16 : gemm_kernel_simd, context);
}

}  // namespace fathom::cpu
