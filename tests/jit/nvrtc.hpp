// The NVRTC of the tests: what tools/setup.sh put into build/nvrtc, else this machine's. Without one a test
// fails: a kernel that nobody compiled is not known to compile.
#pragma once
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "cuda/nvrtc.hpp"

namespace fathom::jit {

inline std::string nvrtc_path() {
  const std::filesystem::path root = std::filesystem::path(FATHOM_SOURCE_DIR) / "build/nvrtc";
  std::error_code none;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root, none)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("libnvrtc.so")) return entry.path().string();
  }
  return {};
}

inline const cuda::Nvrtc& nvrtc() {
  static const std::shared_ptr<const cuda::Nvrtc> library =
      cuda::load_nvrtc("the tests; tools/setup.sh ci gets it", nvrtc_path());
  return *library;
}

}  // namespace fathom::jit
