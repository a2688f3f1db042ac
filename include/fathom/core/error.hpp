// The kinds of failure Fathom reports. "Cannot run this" is no failure but a value: see Verdict in dispatch.
#pragma once
#include <stdexcept>
#include <string>

namespace fathom {

/// Base of every exception Fathom throws on purpose.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The caller's mistake: a wrong shape, dtype, value or option. The message names the op or option, the
/// argument, what was expected and what came.
class InvalidArgument : public Error {
 public:
  using Error::Error;
};

/// A file that is missing, unreadable, truncated or not what it claims to be. The message starts with its
/// path.
class FileError : public Error {
 public:
  using Error::Error;
};

/// A valid problem that no implementation takes. The message lists every implementation with its reason.
class NoImplementation : public Error {
 public:
  using Error::Error;
};

/// The environment's failure: out of memory, a driver call that failed, a library that is missing.
class EnvironmentError : public Error {
 public:
  using Error::Error;
};

}  // namespace fathom
