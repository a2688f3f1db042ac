#include "cpu/mla.hpp"
#include "cpu/scratch.hpp"
#include "ops/cache_layout.hpp"
#include "ops/sparse_mla/sparse_mla_impl.hpp"

namespace fathom {
namespace {

struct Slots;  // names the scratch

// The valid entries of token t's list, in order.
std::pair<const std::int32_t*, std::int64_t> valid_slots(const SparseMlaArgs& args, std::int64_t t) {
  const std::int64_t length = sparse_mla_length(args, t);
  auto* slots = reinterpret_cast<std::int32_t*>(cpu::thread_scratch<Slots>((length + 1) * 4));
  const auto* list = args.indices.as<const std::int32_t>() + t * args.indices.step(0);
  std::int64_t count = 0;
  for (std::int64_t j = 0; j < length; ++j) {
    slots[count] = list[j];
    count += list[j] >= 0;
  }
  return {slots, count};
}

constexpr std::int64_t kMostHeads = 64;  // of a task: their sums stay in the L2 cache

// Calls run(token, first head, heads) for every task, on the threads. Entries are converted once a task, so a
// task is all heads of a token; but where tokens are few, those that are left over when every thread has as
// many are split into equal parts. Heads come in fours because the loops take four at a time.
template <class Run>
void for_each_task(const SparseMlaProblem& problem, const Context& context, const Run& run) {
  const std::int64_t threads = context.threads();
  const std::int64_t whole = problem.tokens / threads;  // tokens of every thread
  const std::int64_t rest = problem.tokens % threads;
  std::int64_t parts = (problem.heads + kMostHeads - 1) / kMostHeads;
  if (parts == 1 && whole < 4 && problem.heads % (4 * threads) == 0) {
    const std::int64_t part = problem.heads / threads;
    return context.parallel_for(threads * (whole + rest), 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t thread = i / (whole + rest);
        const std::int64_t at = i % (whole + rest);
        if (at < whole) {
          run(thread * whole + at, 0, problem.heads);
        } else {
          run(threads * whole + at - whole, thread * part, part);
        }
      }
    });
  }
  if (whole < 2 && rest != 0) parts = std::max(parts, threads);
  const std::int64_t heads = cpu::align_to((problem.heads + parts - 1) / parts, 4);
  parts = (problem.heads + heads - 1) / heads;
  context.parallel_for(problem.tokens * parts, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t h = i % parts * heads;
      run(i / parts, h, std::min(heads, problem.heads - h));
    }
  });
}

}  // namespace

void sparse_mla_cpu(const SparseMlaProblem& problem, const SparseMlaArgs& args, const Context& context) {
  if (problem.heads == 0) return;
  for_each_task(problem, context, [&](std::int64_t t, std::int64_t h, std::int64_t heads) {
    const auto [slots, count] = valid_slots(args, t);
    const std::int64_t q = t * args.q.step(0) + h * args.q.step(1);
    const std::int64_t out = t * args.out.step(0) + h * args.out.step(1);
    cpu::mla_heads({.heads = heads,
                    .lora = problem.lora,
                    .rope_dim = problem.rope_dim,
                    .q = args.q.as<std::byte>() + q * size_of(problem.q),
                    .q_dtype = problem.q,
                    .q_stride = args.q.step(1),
                    .cache = args.cache.as<std::uint8_t>(),
                    .cache_dtype = problem.cache,
                    .entry_bytes = args.cache.step(0) * size_of(problem.cache),
                    .slots = slots,
                    .count = count,
                    .softmax_scale = args.softmax_scale,
                    .sink = args.sink.given() ? args.sink.as<const float>() + h : nullptr,
                    .lse = args.lse.given() ? args.lse.as<float>() + t * args.lse.step(0) + h : nullptr,
                    .out = args.out.as<std::byte>() + out * size_of(problem.out),
                    .out_dtype = problem.out,
                    .out_stride = args.out.step(1)});
  });
}

}  // namespace fathom
