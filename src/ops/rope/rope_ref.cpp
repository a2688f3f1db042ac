// The oracle of rope: plain loops, rotation in double.
#include "ops/elements.hpp"
#include "ops/rope/rope_impl.hpp"

namespace fathom {

void rope_ref(const RopeProblem& problem, const RopeArgs& args, const Context&) {
  const std::int64_t half = problem.rope_dim / 2;
  const bool interleaved = problem.style == RopeStyle::interleaved;
  for (std::int64_t t = 0; t < problem.tokens; ++t) {
    const std::int64_t position = rope_position(args.positions, t);
    for (std::int64_t h = 0; h < problem.heads; ++h) {
      const std::int64_t head = t * args.x.step(0) + h * args.x.step(1) + problem.offset;
      for (std::int64_t i = 0; i < half; ++i) {
        const std::int64_t first = head + (interleaved ? 2 * i : i);
        const std::int64_t second = interleaved ? first + 1 : first + half;
        const double a = load_element(args.x.data, problem.x, first);
        const double b = load_element(args.x.data, problem.x, second);
        const double cos = at(args.cos_sin, position, i);
        const double sin = at(args.cos_sin, position, half + i);
        store_element(args.x.data, problem.x, first, static_cast<float>(a * cos - b * sin));
        store_element(args.x.data, problem.x, second, static_cast<float>(b * cos + a * sin));
      }
    }
  }
}

}  // namespace fathom
