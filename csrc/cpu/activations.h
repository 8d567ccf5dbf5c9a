// The activations of layers and their derivatives, on vectors.
//
// T is the type in which a result is stored: float, or uint16_t for bfloat16, whose rounding error of 2e-3 allows
// cheaper polynomials. The errors of all functions are measured in tests/fused_inr/_backends/cpu/test_activations.py.
#pragma once

#include "abi.h"
#include "simd.h"

namespace ISA_NAME {

// An activation's value, d[0], and its derivatives up to an order.
template <int ORDER>
struct Jet {
  vf d[ORDER + 1];
};

// t as an integer plus the fraction f in -1/2 ... 1/2, with p = 2^f - 1: minimax, error 9e-8 or, for bfloat16, 1e-4.
struct Exponent {
  vu integer;  // in the bits of a float's exponent
  vf p;
};

template <class T>
static inline Exponent exponent(vf t) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const vf shifted = t + magic;
  const vf f = t - (shifted - magic);
  vf q;
  if constexpr (sizeof(T) == 2) {
    q = 0.0559771508f * f + 0.242225513f;
    q = q * f + 0.693112493f;
  } else {
    q = 0.00134072592f * f + 0.00967187528f;
    q = q * f + 0.0555030853f;
    q = q * f + 0.24022235f;
    q = q * f + 0.693147242f;
  }
  return {(vu)shifted << 23, q * f};
}

constexpr float LEAST = -126.0f;  // exponent below which 2^t is taken to be zero

// 2^t for t <= 0 or NaN.
template <class T>
static inline vf exp2_of(vf t) {
  const Exponent x = exponent<T>(t);
  const vf power = (vf)((vu)(x.p + 1.0f) + x.integer);
  return t < LEAST ? vf{} : power;
}

// 2^t - 1 for t <= 0 or NaN, with a small relative error even next to t = 0.
template <class T>
static inline vf exp2_minus_one(vf t) {
  t = t < LEAST ? splat(LEAST) : t;
  const Exponent x = exponent<T>(t);
  const vf scale = (vf)((vu)splat(1.0f) + x.integer);
  return (scale - 1.0f) + scale * x.p;
}

constexpr float LOG2_E = 1.44269504089f;

static inline vf absolute(vf x) { return (vf)magnitude(x); }
static inline vf signs(vf x) { return (vf)((vi)x & INT32_MIN); }  // of x, with the magnitude 0
static inline vf with_sign(vf x, vf sign) { return (vf)(magnitude(x) | (vi)sign); }

// -1, 0 or 1.
static inline vf signum(vf x) { return x == 0.0f ? vf{} : with_sign(splat(1.0f), signs(x)); }

// The sine and cosine of angles, in radians, or in half turns for bfloat16.
struct Circle {
  vf sine, cosine;
};

template <class T>
static inline Circle circle(vf x) {
  const float magic = 12582912.0f;
  if constexpr (sizeof(T) == 2) {
    const vf shifted = x + magic;
    const vi parity = (vi)shifted << 31;
    const vf f = x - (shifted - magic), s = f * f;
    vf p = 2.29954257012f * s - 5.13690414942f;  // as in sin_half_turns
    p = p * s + 3.14063998301f;
    vf q = -1.22649395f * s + 4.04316568f;  // cos(pi f), error 8e-6
    q = q * s - 4.93416691f;
    q = q * s + 1.0f;
    return {(vf)((vi)(f * p) ^ parity), (vf)((vi)q ^ parity)};
  } else {
    const vf shifted = x * PER_PI + magic;
    const vi parity = (vi)shifted << 31;
    const vf k = shifted - magic;
    vf r = x - k * 3.140625f;  // pi in three parts, as in sin_shifted
    r = r - k * 9.67502593994140625e-4f;
    r = r - k * 1.509957990978376e-7f;
    const vf s = r * r;
    vf q = 2.31943832e-05f * s - 0.00138559274f;  // cos(r) on [-pi/2, pi/2], error 5e-8
    q = q * s + 0.0416639894f;
    q = q * s - 0.499999315f;
    q = q * s + 1.0f;
    return {(vf)((vi)sin_poly(r) ^ parity), (vf)((vi)q ^ parity)};
  }
}

// The limit of the angles that need no reduction before `circle`, in its unit.
template <class T>
constexpr float angle_limit = sizeof(T) == 2 ? FAR * PER_PI : FAR;

// The angles of a sine or finer layer, in the unit of `circle`: `omega z` or `omega (|z| + 1) z`. Their magnitude is
// added to the maximum `largest`; only with ANY_ANGLE may it be above angle_limit.
template <int ACTIVATION, class T, bool ANY_ANGLE>
static inline vf angles(vf z, float omega, vi& largest) {
  if (ACTIVATION == ACT_FINER) z *= absolute(z) + 1.0f;
  if (ANY_ANGLE)
    z = reducible(z * omega) * (sizeof(T) == 2 ? PER_PI : 1.0f);
  else
    z *= sizeof(T) == 2 ? omega * PER_PI : omega;
  largest = larger(largest, magnitude(z));
  return z;
}

template <int ORDER>
static inline Jet<ORDER> sine_jet(Circle c, float omega) {
  Jet<ORDER> y;
  y.d[0] = c.sine;
  if constexpr (ORDER >= 1) y.d[1] = c.cosine * omega;
  if constexpr (ORDER >= 2) y.d[2] = c.sine * -(omega * omega);
  if constexpr (ORDER >= 3) y.d[3] = c.cosine * -(omega * omega * omega);
  return y;
}

template <int ORDER>
static inline Jet<ORDER> finer_jet(Circle c, vf z, float omega) {
  Jet<ORDER> y;
  y.d[0] = c.sine;
  if constexpr (ORDER >= 1) {
    const vf rate = (2.0f * omega) * absolute(z) + omega;  // the derivative of the angle
    y.d[1] = c.cosine * rate;
    if constexpr (ORDER >= 2) {
      const vf bend = signum(z) * (2.0f * omega), square = rate * rate;
      y.d[2] = c.cosine * bend - c.sine * square;
      if constexpr (ORDER >= 3) y.d[3] = -rate * (3.0f * bend * c.sine + square * c.cosine);
    }
  }
  return y;
}

template <int ORDER, class T>
static inline Jet<ORDER> gauss_jet(vf z, float omega) {
  const vf u = z * omega, u2 = u * u;
  Jet<ORDER> y;
  y.d[0] = exp2_of<T>(u2 * -LOG2_E);
  if constexpr (ORDER >= 1) y.d[1] = u * y.d[0] * (-2.0f * omega);
  if constexpr (ORDER >= 2) y.d[2] = (4.0f * u2 - 2.0f) * y.d[0] * (omega * omega);
  if constexpr (ORDER >= 3) y.d[3] = (12.0f - 8.0f * u2) * (u * y.d[0]) * (omega * omega * omega);
  return y;
}

template <int ORDER, class T>
static inline Jet<ORDER> tanh_jet(vf z) {
  const vf e = exp2_minus_one<T>(absolute(z) * (-2.0f * LOG2_E));
  Jet<ORDER> y;
  y.d[0] = with_sign(e / (2.0f + e), signs(z));
  if constexpr (ORDER >= 1) {
    const vf square = y.d[0] * y.d[0];
    y.d[1] = 1.0f - square;
    if constexpr (ORDER >= 2) y.d[2] = -2.0f * y.d[0] * y.d[1];
    if constexpr (ORDER >= 3) y.d[3] = y.d[1] * (6.0f * square - 2.0f);
  }
  return y;
}

template <int ORDER, class T>
static inline Jet<ORDER> silu_jet(vf z) {
  const vf e = exp2_of<T>(absolute(z) * -LOG2_E);
  const vf far = 1.0f / (1.0f + e), near = e * far;  // the sigmoids of |z| and -|z|
  const vf s = z < 0.0f ? near : far;
  Jet<ORDER> y;
  y.d[0] = z * s;
  if constexpr (ORDER >= 1) {
    const vf rest = z < 0.0f ? far : near;  // 1 - s, which a subtraction would round to zero
    y.d[1] = s * (z * rest + 1.0f);
    if constexpr (ORDER >= 2) {
      const vf slope = near * far, tilt = rest - s, turn = z * tilt;
      y.d[2] = slope * (turn + 2.0f);
      if constexpr (ORDER >= 3) y.d[3] = slope * (tilt * (turn + 3.0f) - 2.0f * z * slope);
    }
  }
  return y;
}

template <int ORDER, class T>
static inline Jet<ORDER> gelu_jet(vf z) {
  const vf e = exp2_of<T>(z * z * (-0.5f * LOG2_E));
  // The normal distribution function of -|z| is e times a polynomial of t = 1 / (1 + 0.33 |z|), minimax for |z| <= 9
  // with absolute error 7e-8 or, for bfloat16, 2e-5.
  const vf t = 1.0f / (0.33f * absolute(z) + 1.0f);
  vf q;
  if constexpr (sizeof(T) == 2) {
    q = 0.38659814f * t - 0.0642064512f;
    q = q * t + 0.177593231f;
  } else {
    q = -0.110677063f * t + 0.379296273f;
    q = q * t - 0.0962550193f;
    q = q * t + 0.206238896f;
    q = q * t + 0.121396936f;
  }
  const vf tail = e * (q * t), probability = z > 0.0f ? 1.0f - tail : tail;
  Jet<ORDER> y;
  y.d[0] = z * probability;
  if constexpr (ORDER >= 1) {
    const vf density = e * 0.398942280401f;
    y.d[1] = z * density + probability;
    if constexpr (ORDER >= 2) {
      const vf square = z * z;
      y.d[2] = density * (2.0f - square);
      if constexpr (ORDER >= 3) y.d[3] = z * density * (square - 4.0f);
    }
  }
  return y;
}

// The piecewise linear activations. Where they have no derivative it is PyTorch's.
template <int ACTIVATION, int ORDER>
static inline Jet<ORDER> piecewise_jet(vf z, float slope) {
  Jet<ORDER> y = {};
  if (ACTIVATION == ACT_LRELU) {
    y.d[0] = z > 0.0f ? z : z * slope;
    if constexpr (ORDER >= 1) y.d[1] = z > 0.0f ? splat(1.0f) : splat(slope);
  } else if (ACTIVATION == ACT_RELU) {
    y.d[0] = z < 0.0f ? vf{} : z;  // NaN passes, and so does its gradient
    if constexpr (ORDER >= 1) y.d[1] = z <= 0.0f ? vf{} : splat(1.0f);
  } else {
    y.d[0] = z;
    if constexpr (ORDER >= 1) y.d[1] = splat(1.0f);
  }
  return y;
}

// The value and the derivatives of a layer's activation at z, without the gain. For `largest` and ANY_ANGLE see
// `angles`; activations other than sine and finer ignore them.
template <int ACTIVATION, int ORDER, class T, bool ANY_ANGLE>
static inline Jet<ORDER> activation_jet(vf z, const FusedInrLayer& l, vi& largest) {
  if constexpr (ACTIVATION == ACT_SINE || ACTIVATION == ACT_FINER) {
    const vf angle = angles<ACTIVATION, T, ANY_ANGLE>(z, l.omega, largest);
    Circle c;
    if constexpr (ORDER > 0)
      c = circle<T>(angle);
    else
      c = {sizeof(T) == 2 ? sin_half_turns(angle) : sin_of(angle), vf{}};
    if constexpr (ACTIVATION == ACT_FINER) return finer_jet<ORDER>(c, z, l.omega);
    return sine_jet<ORDER>(c, l.omega);
  } else if constexpr (ACTIVATION == ACT_GAUSS) {
    return gauss_jet<ORDER, T>(z, l.omega);
  } else if constexpr (ACTIVATION == ACT_GELU) {
    return gelu_jet<ORDER, T>(z);
  } else if constexpr (ACTIVATION == ACT_SILU) {
    return silu_jet<ORDER, T>(z);
  } else if constexpr (ACTIVATION == ACT_TANH) {
    return tanh_jet<ORDER, T>(z);
  } else {
    return piecewise_jet<ACTIVATION, ORDER>(z, l.slope);
  }
}

// The same at any z.
template <int ACTIVATION, int ORDER, class T = float>
static inline Jet<ORDER> activation_jet(vf z, const FusedInrLayer& l) {
  vi largest = {};
  return activation_jet<ACTIVATION, ORDER, T, true>(z, l, largest);
}

// Whether an activation takes the sine of an angle that may be too large for `circle`.
template <int ACTIVATION>
constexpr bool has_angle = ACTIVATION == ACT_SINE || ACTIVATION == ACT_FINER;

// An activation's code as a type, so that a generic lambda can take it as a template argument.
template <int ACTIVATION>
struct Code {
  static constexpr int value = ACTIVATION;
};

// Calls body(Code<activation>()).
template <class Body>
static inline void with_activation(int32_t activation, const Body& body) {
  switch (activation) {
    case ACT_LRELU: return body(Code<ACT_LRELU>());
    case ACT_RELU: return body(Code<ACT_RELU>());
    case ACT_SINE: return body(Code<ACT_SINE>());
    case ACT_GELU: return body(Code<ACT_GELU>());
    case ACT_SILU: return body(Code<ACT_SILU>());
    case ACT_TANH: return body(Code<ACT_TANH>());
    case ACT_GAUSS: return body(Code<ACT_GAUSS>());
    case ACT_FINER: return body(Code<ACT_FINER>());
    default: return body(Code<ACT_LINEAR>());
  }
}

}  // namespace ISA_NAME
