#include "control.hpp"

#include <algorithm>
#include <vector>

#include "cuda/device_context.hpp"
#include "ops/gemm_scales.hpp"

namespace fathom {

using namespace cuda;

namespace {
constexpr std::uint64_t kWorkspaceBytes = std::uint64_t{32} << 20;
}

// cuBLASLt is column-major: it sees out^T[n, m] = b[k, n]^T * a[k, m], so b comes first.
struct Control::Made {
  explicit Made(std::shared_ptr<const CublasLt> table) : library(std::move(table)) {}
  ~Made() {
    for (CublasLtLayout layout : {a, b, out}) {
      if (layout != nullptr) library->cublasLtMatrixLayoutDestroy(layout);
    }
    if (preference != nullptr) library->cublasLtMatmulPreferenceDestroy(preference);
    if (desc != nullptr) library->cublasLtMatmulDescDestroy(desc);
    if (handle != nullptr) library->cublasLtDestroy(handle);
  }
  Made(const Made&) = delete;
  Made& operator=(const Made&) = delete;

  void prepare(ControlKind kind, const BenchProduct& product, const Context& context);
  template <class T>
  void set(CublasLtDescAttribute attribute, const T& value) const {
    CublasLt::check(library->cublasLtMatmulDescSetAttribute(desc, attribute, &value, sizeof(value)),
                    "cublasLtMatmulDescSetAttribute", "preparing the control");
  }
  void layout(CublasLtLayout* layout, CudaDataType type, std::int64_t rows, std::int64_t columns) const {
    CublasLt::check(library->cublasLtMatrixLayoutCreate(layout, type, static_cast<std::uint64_t>(rows),
                                                        static_cast<std::uint64_t>(columns), rows),
                    "cublasLtMatrixLayoutCreate", "preparing the control");
  }

  std::shared_ptr<const CublasLt> library;
  CublasLtHandle handle = nullptr;
  CublasLtDesc desc = nullptr;
  CublasLtLayout a = nullptr, b = nullptr, out = nullptr;
  CublasLtPreference preference = nullptr;
  CublasLtHeuristic best{};
  TensorView a_data, b_data;
  std::shared_ptr<BenchBuffer> operands[2], scales[2];
  DeviceBuffer result, workspace;
};

void Control::Made::prepare(ControlKind kind, const BenchProduct& product, const Context& context) {
  const fathom::detail::BenchContext made_for(context);
  const std::int64_t m = product.a.size(0);
  const std::int64_t n = product.b.size(0);
  const std::int64_t k = product.a.size(1);
  const bool fp8 = kind == ControlKind::fp8;
  const DType dtype = fp8 ? DType::f8e4m3 : DType::bf16;
  const CudaDataType type = fp8 ? kCuda8fE4m3 : kCuda16bf;
  operands[0] = bench_normal(dtype, {m, k}, fp8 ? 100 : 1);
  operands[1] = bench_normal(dtype, {n, k}, fp8 ? 100 : 1);
  a_data = operands[0]->view(dtype, {m, k});
  b_data = operands[1]->view(dtype, {n, k});
  result = DeviceBuffer(context, m * n * 4);
  workspace = DeviceBuffer(context, static_cast<std::int64_t>(kWorkspaceBytes));

  const Current current(device_context(context));
  CublasLt::check(library->cublasLtCreate(&handle), "cublasLtCreate", "starting the control");
  CublasLt::check(library->cublasLtMatmulDescCreate(&desc, kCublasCompute32f, kCuda32f),
                  "cublasLtMatmulDescCreate", "preparing the control");
  set(kCublasLtTransA, kCublasOpT);
  if (fp8) {
    // Rows and groups rounded up as the library pads them; which of its layouts does not matter to the time.
    const auto padded = [](std::int64_t value) { return (value + 3) / 4 * 4; };
    const std::int64_t groups = padded(scale_groups(k));
    scales[0] = bench_normal(DType::f32, {padded(m), groups}, 0.01);
    scales[1] = bench_normal(DType::f32, {padded(scale_groups(n)), groups}, 0.01);
    set(kCublasLtScaleModeA, kCublasLtScaleBlock128x128);
    set(kCublasLtScaleModeB, kCublasLtScaleVec128);
    set(kCublasLtScaleA, scales[1]->view(DType::f32, {1}).data);
    set(kCublasLtScaleB, scales[0]->view(DType::f32, {1}).data);
  }
  layout(&a, type, k, m);
  layout(&b, type, k, n);
  layout(&out, product.out.dtype == DType::f32 ? kCuda32f : kCuda16bf, n, m);
  CublasLt::check(library->cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate",
                  "preparing the control");
  CublasLt::check(library->cublasLtMatmulPreferenceSetAttribute(preference, kCublasLtMaxWorkspaceBytes,
                                                                &kWorkspaceBytes, sizeof(kWorkspaceBytes)),
                  "cublasLtMatmulPreferenceSetAttribute", "preparing the control");
  int count = 0;
  const Result status =
      library->cublasLtMatmulAlgoGetHeuristic(handle, desc, b, a, out, out, preference, 1, &best, &count);
  if (status != kSuccess || count == 0) {
    throw NoImplementation("cuBLASLt has no kernel for it (status " + std::to_string(status) + ")");
  }
}

Control::Control(std::shared_ptr<const CublasLt> library, ControlKind kind, const BenchProduct& product,
                 const Context& context)
    : context_(context), made_(std::make_unique<Made>(std::move(library))) {
  made_->prepare(kind, product, context);
}

Control::~Control() = default;

void Control::run() const {
  const Made& made = *made_;
  const Current current(device_context(context_));
  const float one = 1;
  const float zero = 0;
  CublasLt::check(made.library->cublasLtMatmul(made.handle, made.desc, &one, made.b_data.data, made.b,
                                               made.a_data.data, made.a, &zero, made.result.data(), made.out,
                                               made.result.data(), made.out, &made.best.algo,
                                               made.workspace.data(), kWorkspaceBytes, stream_of(context_)),
                  "cublasLtMatmul", "running the control");
}

}  // namespace fathom
