// Random steps for the tests of dsa_metadata, on the host.
#pragma once
#include <algorithm>
#include <numeric>
#include <vector>

#include "fathom/ops/dsa_metadata.hpp"
#include "ops/op_test.hpp"

namespace fathom {

/// What a step is asked for. Sequences take their pages from a shuffled pool; requests are sequences in any
/// order; some are padding.
struct DsaStep {
  DsaStep(const DsaMetadataProblem& problem, std::int64_t seed)
      : p(problem),
        random(seed),
        prefix_lens(DType::i32, {p.batch}),
        extend_lens(DType::i32, {p.batch}),
        page_table(DType::i32, {p.batch + 2, p.max_pages}),
        request_ids(DType::i32, {p.batch}) {
    shuffle(page_table, page_table.count());
    shuffle(request_ids, p.batch + 2);
    draw();
  }
  /// New lengths.
  void draw() {
    std::int64_t left = p.rows;
    const std::int64_t room = p.max_pages * p.page_tokens;
    for (std::int64_t b = 0; b < p.batch; ++b) {
      const std::int64_t extend =
          p.packed ? random.integer(0, std::min({room, left, 2 * left / (p.batch - b)})) : p.next_n();
      const bool padding = random.integer(0, 5) == 0;
      const std::int64_t prefix = padding ? -random.integer(1, 9) : random.integer(0, room - extend);
      if (!padding) left -= extend;
      prefix_lens.set(b, static_cast<double>(prefix));
      extend_lens.set(b, static_cast<double>(extend));
    }
  }
  DsaMetadataArgs args(const DsaMetadata& out) const {
    return {.mode = p.mode,
            .prefix_lens = prefix_lens,
            .extend_lens = p.packed ? extend_lens.view() : TensorView{},
            .page_table = page_table,
            .request_ids = request_ids,
            .index_topk = p.index_topk,
            .page_tokens = p.page_tokens,
            .out = out};
  }
  /// All outputs in one buffer.
  Tensor run(const Context& context) const {
    Tensor buffer = poisoned(DType::i32, {dsa_metadata_size(p)});
    dsa_metadata(args(dsa_metadata_in(p, buffer)), context);
    return buffer;
  }

  DsaMetadataProblem p;
  Random random;
  Tensor prefix_lens, extend_lens, page_table, request_ids;

 private:
  // Different numbers below `count`.
  void shuffle(Tensor& into, std::int64_t count) {
    std::vector<std::int32_t> all(static_cast<std::size_t>(count));
    std::iota(all.begin(), all.end(), 0);
    std::shuffle(all.begin(), all.end(), random.engine());
    std::copy_n(all.begin(), into.count(), into.as<std::int32_t>());
  }
};

/// Every mode, sizes around a block of threads, padding of both kinds.
inline std::vector<DsaMetadataProblem> dsa_metadata_problems() {
  const auto of = [](ForwardMode mode, std::int64_t batch, std::int64_t rows, bool packed) {
    return DsaMetadataProblem{.mode = mode,
                              .batch = batch,
                              .rows = rows,
                              .max_pages = 5,
                              .index_topk = 70,
                              .workers = mode == ForwardMode::extend ? 0 : 7,
                              .packed = packed};
  };
  std::vector<DsaMetadataProblem> problems{of(ForwardMode::idle, 0, 0, false),
                                           of(ForwardMode::idle, 0, 9, false),
                                           of(ForwardMode::decode, 1, 1, false),
                                           of(ForwardMode::decode, 300, 300, false),
                                           of(ForwardMode::target_verify, 3, 24, false),
                                           of(ForwardMode::target_verify, 3, 0, false),
                                           of(ForwardMode::target_verify, 70, 280, false),
                                           of(ForwardMode::draft_extend, 5, 20, false),
                                           of(ForwardMode::draft_extend, 5, 20, true),
                                           of(ForwardMode::draft_extend, 260, 900, true),
                                           of(ForwardMode::extend, 1, 300, true),
                                           of(ForwardMode::extend, 7, 700, true),
                                           of(ForwardMode::extend, 520, 600, true)};
  problems.back().page_tokens = 16;
  problems.push_back(problems[4]);
  problems.back().tables = false;
  problems.back().workers = 0;
  for (const ForwardMode mode : {ForwardMode::target_verify, ForwardMode::draft_extend}) {  // long contexts
    problems.push_back(of(mode, 3, 12, mode == ForwardMode::draft_extend));
    problems.back().max_pages = 2600;
    problems.back().workers = 132;
    problems.back().index_topk = 2048;
  }
  return problems;
}

}  // namespace fathom
