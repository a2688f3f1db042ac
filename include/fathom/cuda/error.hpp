// CudaError: a call of CUDA's driver, or of one of its libraries, that failed.
#pragma once
#include <string>

#include "fathom/core/error.hpp"

namespace fathom {

/// The message says which call failed, its status by name and in words, and what Fathom was doing.
class CudaError : public EnvironmentError {
 public:
  CudaError(const std::string& message, int status) : EnvironmentError(message), status_(status) {}
  /// The status as the library gave it, e.g. 2 for CUDA_ERROR_OUT_OF_MEMORY.
  int status() const { return status_; }

 private:
  int status_;
};

}  // namespace fathom
