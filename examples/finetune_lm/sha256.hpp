// SPDX-License-Identifier: MIT
// SHA-256 (FIPS 180-4), for `info --tensors`.
#pragma once

#include <array>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace finetune_lm {

inline std::string sha256(const unsigned char* data, std::size_t size) {
  // Fractions of the cube roots and square roots of the first primes.
  static constexpr std::uint32_t k[64] = {
      0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
      0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
      0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
      0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
      0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
      0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
      0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
      0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
  std::array<std::uint32_t, 8> h = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  const auto turn = [](std::uint32_t x, int n) { return (x >> n) | (x << (32 - n)); };
  const auto block = [&](const unsigned char* p) {
    std::uint32_t w[64];
    for (int i = 0; i < 16; ++i) {
      w[i] = std::uint32_t{p[4 * i]} << 24U | std::uint32_t{p[4 * i + 1]} << 16U | std::uint32_t{p[4 * i + 2]} << 8U |
             p[4 * i + 3];
    }
    for (int i = 16; i < 64; ++i) {
      const std::uint32_t a = w[i - 15], b = w[i - 2];
      w[i] = w[i - 16] + (turn(a, 7) ^ turn(a, 18) ^ (a >> 3U)) + w[i - 7] + (turn(b, 17) ^ turn(b, 19) ^ (b >> 10U));
    }
    std::array<std::uint32_t, 8> s = h;
    for (int i = 0; i < 64; ++i) {
      const std::uint32_t t1 =
          s[7] + (turn(s[4], 6) ^ turn(s[4], 11) ^ turn(s[4], 25)) + ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
      const std::uint32_t t2 =
          (turn(s[0], 2) ^ turn(s[0], 13) ^ turn(s[0], 22)) + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
      s = {t1 + t2, s[0], s[1], s[2], s[3] + t1, s[4], s[5], s[6]};
    }
    for (std::size_t i = 0; i < 8; ++i) h[i] += s[i];
  };
  const std::size_t whole = size / 64 * 64;
  for (std::size_t i = 0; i < whole; i += 64) block(data + i);
  std::vector<unsigned char> rest(data + whole, data + size);
  rest.push_back(0x80);
  while (rest.size() % 64 != 56) rest.push_back(0);
  for (int shift = 56; shift >= 0; shift -= 8)
    rest.push_back(static_cast<unsigned char>((std::uint64_t{size} * 8) >> shift));
  for (std::size_t i = 0; i < rest.size(); i += 64) block(rest.data() + i);
  std::string text;
  for (const std::uint32_t word : h) {
    char hex[9];
    std::snprintf(hex, sizeof hex, "%08x", word);
    text += hex;
  }
  return text;
}

}  // namespace finetune_lm
