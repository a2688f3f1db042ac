// A device that is none: for what ops launch there.
#pragma once
#include <gtest/gtest.h>

#include <cstdint>
#include <initializer_list>

#include "cuda/device_context.hpp"
#include "fake_driver.hpp"
#include "jit/scratch.hpp"

namespace fathom {

class OnFake : public testing::Test {
 protected:
  // Addresses that nobody may read: the fake driver runs nothing.
  static TensorView view(DType dtype, std::initializer_list<std::int64_t> shape,
                         std::uintptr_t address = 256) {
    return TensorView::contiguous(reinterpret_cast<void*>(address), dtype, shape, {DeviceKind::cuda, 0});
  }
  /// On the fake device, with a cache of kernels that no other test sees.
  Context context_with(ContextOptions options) const {
    options.cache_dir = scratch_ / "cache";
    return cuda::make_context(fake_.table(), 0, options);
  }

  jit::Scratch scratch_;
  cuda::FakeDriver fake_;
};

}  // namespace fathom
