// SPDX-License-Identifier: MIT
// Checks of arguments. A failed check throws std::invalid_argument with the actual and the expected value in its
// message, before anything has been written. Compiled without exceptions, it calls hydralora::on_failure().
#pragma once

#include <initializer_list>
#include <limits>
#include <sstream>
#include <stdexcept>

#include "hydralora/core/config.hpp"

namespace hydralora {

#if !HYDRALORA_HAS_EXCEPTIONS
/// Called with -fno-exceptions where a check fails. The program must define it, once, and it must not return. Memory
/// that runs out is up to the program's operator new.
[[noreturn]] void on_failure(const char* message);
#endif

inline namespace HYDRALORA_BUILD {

/// Rows and columns; of a view, features and tokens. 8x16 in an error message.
struct Shape {
  Index rows, cols;

  friend bool operator==(Shape a, Shape b) { return a.rows == b.rows && a.cols == b.cols; }
  friend std::ostream& operator<<(std::ostream& out, Shape s) { return out << s.rows << 'x' << s.cols; }
};

namespace detail {

/// A reference to anything that a stream takes, so that one function makes all messages.
class MessagePart {
 public:
  MessagePart(const char* text)  // NOLINT(google-explicit-constructor)
      : value_(text), print_([](std::ostream& out, const void* value) { out << static_cast<const char*>(value); }) {}
  template <class T>
  MessagePart(const T& value)  // NOLINT(google-explicit-constructor)
      : value_(&value), print_([](std::ostream& out, const void* v) { out << *static_cast<const T*>(v); }) {}

  friend std::ostream& operator<<(std::ostream& out, const MessagePart& part) {
    part.print_(out, part.value_);
    return out;
  }

 private:
  const void* value_;
  void (*print_)(std::ostream&, const void*);
};

[[noreturn]] inline void fail_with(std::initializer_list<MessagePart> parts) {
  std::ostringstream message;
  for (const MessagePart& part : parts) message << part;
#if HYDRALORA_HAS_EXCEPTIONS
  throw std::invalid_argument(message.str());
#else
  on_failure(message.str().c_str());
#endif
}

}  // namespace detail

/// Throws std::invalid_argument; the message is the parts one after another.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  detail::fail_with({parts...});
}

/// Throws unless `ok`. The message is made on failure only.
template <class... Parts>
void expects(bool ok, const Parts&... parts) {
  if (!ok) detail::fail_with({parts...});
}

/// Throws unless the two shapes agree: "HydraLoRA::forward: x is 7x3, expected 8x3 (in_features x tokens)".
inline void expects_shape(const char* where, const char* what, Shape actual, Shape expected, const char* meaning) {
  expects(actual == expected, where, ": ", what, " is ", actual, ", expected ", expected, " (", meaning, ")");
}

/// a · b. Throws if the product does not fit into an Index.
inline Index checked_product(Index a, Index b, const char* what) {
  expects(a == 0 || b <= (std::numeric_limits<Index>::max)() / a, what, ": ", a, " * ", b, " elements are too many");
  return a * b;
}

}  // namespace HYDRALORA_BUILD
}  // namespace hydralora
