// WarmCache: what a warm-up compiles, in a cache of its own.
#pragma once
#include <string>

#include "fathom/ops/kernels.hpp"
#include "jit/scratch.hpp"

namespace fathom {

class WarmCache {
 public:
  explicit WarmCache(const std::string& implementation) : options_(ContextOptions::from_environment()) {
    options_.device = "cuda";
    options_.cache_dir = scratch_ / "cache";
    options_.force_implementation = implementation;
  }

  /// Warms up for the problem. Gives a context to which a kernel that is missing all the same is an error.
  Context warmed_up(const std::string& problem) const {
    const Context context(options_);
    warm_up_kernels({&problem, 1}, kernel_architecture(context), context);
    ContextOptions strict = options_;
    strict.compile_mode = CompileMode::cached_only;
    return Context(strict);
  }

 private:
  jit::Scratch scratch_;
  ContextOptions options_;
};

}  // namespace fathom
