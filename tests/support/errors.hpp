// SPDX-License-Identifier: MIT
#pragma once

#include <ostream>
#include <stdexcept>
#include <string>
#include <utility>

namespace support {

/// What std::invalid_argument says when f runs; "nothing thrown" where it does not come.
template <class Error = std::invalid_argument, class Function = void>
std::string message_of(Function&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing thrown";
}

/// For CHECK(message == containing("part")), which shows the message where it fails.
struct containing {
  explicit containing(std::string the_part) : part(std::move(the_part)) {}
  std::string part;
};
inline bool operator==(const std::string& text, const containing& c) { return text.find(c.part) != std::string::npos; }
inline std::ostream& operator<<(std::ostream& stream, const containing& c) { return stream << "... " << c.part; }

}  // namespace support
