#include "cuda/cublaslt_gemm.hpp"

#include <algorithm>
#include <mutex>
#include <string>

namespace fathom::cuda {
namespace {

constexpr std::uint32_t kMostAlignment = 256;

std::uint32_t alignment_of(const void* data) {
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  const std::uintptr_t lowest_bit = address & (~address + 1);
  return lowest_bit == 0 ? kMostAlignment
                         : static_cast<std::uint32_t>(std::min<std::uintptr_t>(lowest_bit, kMostAlignment));
}

std::string text(const CublasLtShape& s) {
  return "a product of m=" + std::to_string(s.m) + ", n=" + std::to_string(s.n) +
         ", k=" + std::to_string(s.k);
}

}  // namespace

// cuBLASLt is column-major: it sees out^T[n, m] = b[k, n]^T * a[k, m], so b comes first.
struct CublasLtGemm::Plan {
  explicit Plan(const CublasLt& table) : library(table) {}
  ~Plan() {
    for (CublasLtLayout layout : {a, b, out}) {
      if (layout != nullptr) library.cublasLtMatrixLayoutDestroy(layout);
    }
    if (desc != nullptr) library.cublasLtMatmulDescDestroy(desc);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  const CublasLt& library;
  CublasLtDesc desc = nullptr;
  CublasLtLayout a = nullptr;
  CublasLtLayout b = nullptr;
  CublasLtLayout out = nullptr;
  CublasLtAlgo algo{};
  std::size_t workspace_bytes = 0;
};

CublasLtGemm::CublasLtGemm(const DeviceContext& device, std::shared_ptr<const CublasLt> library)
    : device_(device), library_(std::move(library)) {
  const Current current(device_);
  CublasLt::check(library_->cublasLtCreate(&handle_), "cublasLtCreate", "starting cuBLASLt");
}

CublasLtGemm::~CublasLtGemm() {
  plans_.clear();
  try {
    const Current current(device_);
    for (const auto& [stream, memory] : workspaces_) device_.driver().cuMemFree_v2(memory);
    library_->cublasLtDestroy(handle_);
  } catch (const CudaError&) {  // the driver is gone, and all of it with the driver
  }
}

const CublasLtGemm::Plan& CublasLtGemm::plan(const Key& key, const CublasLtShape& shape) {
  {
    const std::shared_lock lock(mutex_);
    if (const auto found = plans_.find(key); found != plans_.end()) return *found->second;
  }
  // Made outside of the lock, so that no other stream waits; if two threads make one, the first stays.
  const CublasLt& lt = *library_;
  const std::string doing = "preparing " + text(shape);
  auto made = std::make_unique<Plan>(lt);
  const auto layout = [&](CublasLtLayout* handle, CudaDataType type, std::int64_t rows, std::int64_t columns,
                          std::int64_t stride) {
    CublasLt::check(lt.cublasLtMatrixLayoutCreate(handle, type, static_cast<std::uint64_t>(rows),
                                                  static_cast<std::uint64_t>(columns), stride),
                    "cublasLtMatrixLayoutCreate", doing);
  };
  CublasLt::check(lt.cublasLtMatmulDescCreate(&made->desc, kCublasCompute32f, kCuda32f),
                  "cublasLtMatmulDescCreate", doing);
  CublasLt::check(
      lt.cublasLtMatmulDescSetAttribute(made->desc, kCublasLtTransA, &kCublasOpT, sizeof(kCublasOpT)),
      "cublasLtMatmulDescSetAttribute", doing);
  layout(&made->a, kCuda16bf, shape.k, shape.m, shape.a_row);
  layout(&made->b, kCuda16bf, shape.k, shape.n, shape.b_row);
  layout(&made->out, shape.out_type, shape.n, shape.m, shape.out_row);

  struct Preference {
    const CublasLt& library;
    CublasLtPreference handle = nullptr;
    ~Preference() {
      if (handle != nullptr) library.cublasLtMatmulPreferenceDestroy(handle);
    }
  } preference{lt};
  CublasLt::check(lt.cublasLtMatmulPreferenceCreate(&preference.handle), "cublasLtMatmulPreferenceCreate",
                  doing);
  const auto prefer = [&](CublasLtPreferenceAttribute attribute, const auto& value) {
    CublasLt::check(
        lt.cublasLtMatmulPreferenceSetAttribute(preference.handle, attribute, &value, sizeof(value)),
        "cublasLtMatmulPreferenceSetAttribute", doing);
  };
  prefer(kCublasLtMaxWorkspaceBytes, std::uint64_t{kWorkspaceBytes});
  prefer(kCublasLtMinAlignmentA, static_cast<std::uint32_t>(key[8]));  // cuBLASLt's a is our b
  prefer(kCublasLtMinAlignmentB, static_cast<std::uint32_t>(key[7]));
  prefer(kCublasLtMinAlignmentC, static_cast<std::uint32_t>(key[9]));
  prefer(kCublasLtMinAlignmentD, static_cast<std::uint32_t>(key[9]));
  CublasLtHeuristic best{};
  int count = 0;
  const Result status = lt.cublasLtMatmulAlgoGetHeuristic(handle_, made->desc, made->b, made->a, made->out,
                                                          made->out, preference.handle, 1, &best, &count);
  if (status == kCublasNotSupported || (status == kSuccess && count == 0)) {
    throw NoImplementation("cuBLASLt has no kernel for " + text(shape) + " with pointers aligned to " +
                           std::to_string(key[7]) + ", " + std::to_string(key[8]) + " and " +
                           std::to_string(key[9]) + " bytes");
  }
  CublasLt::check(status, "cublasLtMatmulAlgoGetHeuristic", doing);
  made->algo = best.algo;
  made->workspace_bytes = best.workspace_bytes;
  const std::lock_guard lock(mutex_);
  return *plans_.try_emplace(key, std::move(made)).first->second;
}

DevicePointer CublasLtGemm::workspace(StreamHandle stream) {
  {
    const std::shared_lock lock(mutex_);
    if (const auto found = workspaces_.find(stream); found != workspaces_.end()) return found->second;
  }
  DevicePointer memory = 0;
  device_.driver().check(device_.driver().cuMemAlloc_v2(&memory, kWorkspaceBytes), "cuMemAlloc_v2",
                         "allocating the workspace of cuBLASLt");
  const std::lock_guard lock(mutex_);
  const auto [place, fresh] = workspaces_.try_emplace(stream, memory);
  if (!fresh) device_.driver().cuMemFree_v2(memory);
  return place->second;
}

void CublasLtGemm::run(const CublasLtShape& shape, const void* a, const void* b, void* out,
                       const Context& context) {
  const Key key{shape.m,       shape.n,        shape.k,         shape.a_row,     shape.b_row,
                shape.out_row, shape.out_type, alignment_of(a), alignment_of(b), alignment_of(out)};
  const Current current(device_);
  const Plan& chosen = plan(key, shape);
  const DevicePointer memory = chosen.workspace_bytes > 0 ? workspace(stream_of(context)) : 0;
  const float one = 1;
  const float zero = 0;
  const Result status = library_->cublasLtMatmul(
      handle_, chosen.desc, &one, b, chosen.b, a, chosen.a, &zero, out, chosen.out, out, chosen.out,
      &chosen.algo, reinterpret_cast<void*>(memory), chosen.workspace_bytes, stream_of(context));
  if (status != kSuccess) [[unlikely]]
    CublasLt::check(status, "cublasLtMatmul", "running " + text(shape));
}

}  // namespace fathom::cuda
