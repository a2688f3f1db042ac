// CublasLtGemm: bf16 matrix products by cuBLASLt, which chooses its own kernel for every size.
#pragma once
#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <shared_mutex>

#include "cuda/cublaslt.hpp"
#include "cuda/device_context.hpp"

namespace fathom::cuda {

/// out[m, n] = a[m, k] * b[n, k]^T of row-major matrices. m, n and k are not 0.
struct CublasLtShape {
  std::int64_t m, n, k;
  std::int64_t a_row, b_row, out_row;  // elements between neighbouring rows
  CudaDataType out_type;
};

/// Of one device. Any thread may use it. What cuBLASLt decides for a shape and the alignment of its pointers
/// is kept, so that a later call only looks it up.
class CublasLtGemm {
 public:
  /// Workspace of each stream, allocated at the stream's first product. A stream that is recorded into a
  /// graph needs one product beforehand.
  static constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;

  CublasLtGemm(const DeviceContext& device, std::shared_ptr<const CublasLt> library);
  ~CublasLtGemm();
  CublasLtGemm(const CublasLtGemm&) = delete;
  CublasLtGemm& operator=(const CublasLtGemm&) = delete;

  /// Throws CudaError; NoImplementation if cuBLASLt has no kernel for the shape and alignment.
  void run(const CublasLtShape& shape, const void* a, const void* b, void* out, const Context& context);

 private:
  struct Plan;
  using Key = std::array<std::int64_t, 10>;
  const Plan& plan(const Key& key, const CublasLtShape& shape);
  DevicePointer workspace(StreamHandle stream);

  const DeviceContext& device_;
  std::shared_ptr<const CublasLt> library_;
  CublasLtHandle handle_ = nullptr;
  std::shared_mutex mutex_;
  std::map<Key, std::unique_ptr<Plan>> plans_;
  std::map<StreamHandle, DevicePointer> workspaces_;
};

}  // namespace fathom::cuda
