// expect_no_spills: kernels compile, and the compiler finds registers for all that they hold.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/core/error.hpp"
#include "jit/cubin_store.hpp"
#include "jit/nvrtc.hpp"

namespace fathom::jit {

inline void expect_no_spills(std::span<const Source> sources, std::string_view arch) {
  nvrtc();
  std::vector<std::string> failures(sources.size());
  on_all_cores(sources.size(), 2, [&](std::size_t i) {
    try {
      const Cubin cubin = compile(sources[i], std::string(arch), nvrtc());
      if (spilled_bytes(cubin) != 0) failures[i] = "spills:\n" + cubin.log;
    } catch (const Error& error) {
      failures[i] = error.what();
    }
  });
  for (std::size_t i = 0; i < sources.size(); ++i)
    EXPECT_EQ(failures[i], "") << sources[i].name << " for " << arch;
}

}  // namespace fathom::jit
