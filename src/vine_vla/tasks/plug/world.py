"""MJCF of PlugInsertion: one model for all scenes; a scene only moves, resizes and recolours its parts.

Lengths are metres. Static parts are mocap bodies, so that a reset costs no recompilation and the renderer
lives on. Parts that a scene does not use are parked below the floor.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco

from vine_vla.tasks.plug.arm import arm_actuators, arm_body, arm_defaults, arm_equality

SOCKETS = 3
BLOCKS = 7  # two for each socket, and one that is carried
KINDS = ("two_pin", "round")
PLUG_HALF = (0.022, 0.011, 0.016)
PRONG_RADIUS = 0.0035
PRONG_LENGTH = 0.020
PRONG_X = 0.009
SOCKET_HEIGHT = 0.028
SOCKET_HALF = (0.028, 0.017)
ROUND_RADIUS = 0.026
RACK_HEIGHT = 0.026


@dataclass(frozen=True)
class PlugGeometry:
    """Dials of the insertion's physics.

    Args:
        clearance: hole half size minus prong radius, metres.
        chamfer: depth and width of the hole's 45 degree lead-in, metres; 0 is a sharp edge.
        friction: sliding friction of hole walls and prongs.
        plug_mass: kg.
        block_friction: sliding friction of the neighbours; low, so that a hand that presses on one is
            deflected.
    """

    clearance: float = 0.0015
    chamfer: float = 0.0015
    friction: float = 0.4
    plug_mass: float = 0.04
    block_friction: float = 0.2


_CONTACT = 'solref=".004 1" solimp=".95 .99 .001" condim="4"'


def _box(size: tuple[float, float, float], pos: tuple[float, float, float], extra: str) -> str:
    return (
        f'<geom type="box" size="{size[0]:.6f} {size[1]:.6f} {size[2]:.6f}" '
        f'pos="{pos[0]:.6f} {pos[1]:.6f} {pos[2]:.6f}" {extra}/>'
    )


def _holes(half: float, low: float, high: float, extra: str) -> str:
    """Boxes around two square holes of half size `half`, between the heights `low` and `high`."""
    z, h = (low + high) / 2, (high - low) / 2
    sx, sy = SOCKET_HALF
    text = ""
    for sign in (1, -1):
        text += _box((sx, (sy - half) / 2, h), (0, sign * (sy + half) / 2, z), extra)
        inner = PRONG_X + half
        text += _box(((sx - inner) / 2, half, h), (sign * (sx + inner) / 2, 0, z), extra)
    return text + _box((PRONG_X - half, half, h), (0, 0, z), extra)


def _two_pin(geometry: PlugGeometry, name: str) -> str:
    extra = f'class="{name}" friction="{geometry.friction} .005 .0001" {_CONTACT}'
    half = PRONG_RADIUS + geometry.clearance
    c = geometry.chamfer
    text = _holes(half, 0.0, SOCKET_HEIGHT - c, extra)
    if c > 0:
        text += _holes(half + c, SOCKET_HEIGHT - c, SOCKET_HEIGHT, extra)
        thin, slant = 0.0008, c / 2**0.5
        for x0 in (PRONG_X, -PRONG_X):
            for axis, sign in ((0, 1), (0, -1), (1, 1), (1, -1)):
                normal = [0.0, 0.0, 0.70710678]
                normal[axis] = -sign * 0.70710678
                middle = [x0, 0.0, SOCKET_HEIGHT - c / 2]
                middle[axis] += sign * (half + c / 2)
                centre = [m - thin * n for m, n in zip(middle, normal, strict=True)]
                # A box's local frame after zaxis is free about z; equal long sides would hide it, so give the
                # frame whole.
                along = "0 1 0" if axis == 0 else "1 0 0"
                cross = _cross(normal, [0, 1, 0] if axis == 0 else [1, 0, 0])
                text += (
                    f'<geom type="box" size="{half + c:.6f} {slant:.6f} {thin}" '
                    f'pos="{centre[0]:.6f} {centre[1]:.6f} {centre[2]:.6f}" '
                    f'xyaxes="{along} {cross[0]:.6f} {cross[1]:.6f} {cross[2]:.6f}" {extra}/>'
                )
    for x0 in (PRONG_X, -PRONG_X):
        floor = SOCKET_HEIGHT - c - 0.001
        text += _box((half, half, 0.0005), (x0, 0, floor), 'class="visual" rgba=".03 .03 .03 1"')
    return text


def _cross(a: list[float], b: list[float]) -> list[float]:
    return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]


def _round(name: str) -> str:
    half = SOCKET_HEIGHT / 2
    top = f'pos="0 0 {SOCKET_HEIGHT}" class="visual"'
    return (
        f'<geom type="cylinder" size="{ROUND_RADIUS} {half}" pos="0 0 {half}" class="{name}"'
        f' friction=".4 .005 .0001" {_CONTACT}/>'
        f'<geom type="cylinder" size=".015 .0004" {top} rgba=".9 .9 .88 1"/>'
        f'<geom type="cylinder" size=".009 .0006" {top} rgba=".05 .05 .05 1"/>'
    )


def plug_xml(geometry: PlugGeometry) -> str:
    """The whole MJCF."""
    sockets, classes = "", ""
    for i in range(SOCKETS):
        for kind in KINDS:
            name = f"{kind}_{i}"
            classes += f'<default class="{name}"><geom rgba=".5 .5 .5 1" group="0"/></default>'
            body = _two_pin(geometry, name) if kind == "two_pin" else _round(name)
            sockets += f'<body name="{name}" mocap="true" pos="{i} 0 -1">{body}</body>'
    blocks = "".join(
        f'<body name="block_{i}" mocap="true" pos="{i} 0 -2">'
        f'<geom name="block_{i}" type="box" size=".012 .016 .035"'
        f' friction="{geometry.block_friction} .01 .0005" priority="1" solref=".004 1"/></body>'
        for i in range(BLOCKS)
    )
    px, py, pz = PLUG_HALF
    r = PRONG_RADIUS
    prong = (
        f'class="plug" friction="{geometry.friction} .005 .0001" mass=".002" rgba=".85 .75 .35 1" {_CONTACT}'
    )
    prongs = "".join(
        f'<geom type="capsule" fromto="{x} 0 {-pz + r} {x} 0 {-pz - PRONG_LENGTH + r}" size="{r}" {prong}/>'
        for x in (PRONG_X, -PRONG_X)
    )
    rail = (0.0065, 0.014, RACK_HEIGHT / 2)
    rack = "".join(
        _box(rail, (s * 0.0215, 0, RACK_HEIGHT / 2), f'name="rail_{k}" friction=".6 .005 .0001" {_CONTACT}')
        for k, s in enumerate((1, -1))
    )
    rack += _box((0.03, 0.018, 0.003), (0, 0, 0.003), 'name="rack_base" class="visual" rgba=".3 .3 .3 1"')
    return f"""<mujoco model="plug_insertion">
<compiler angle="radian" autolimits="true"/>
<option timestep="0.002" integrator="implicitfast" cone="elliptic" impratio="10"
 solver="Newton" iterations="50"
 ls_iterations="20"/>
<visual><quality offsamples="0" numslices="16" numstacks="8" numquads="1"/><map znear=".01" zfar="6"/>
<headlight ambient=".45 .45 .45" diffuse=".35 .35 .35" specular="0 0 0"/></visual>
<statistic extent="1" center=".5 0 .1"/>
<default><geom solref="0.004 1" friction="1 0.01 0.0001" condim="4"/>{arm_defaults()}
{classes}<default class="plug"><geom/></default></default>
<asset><texture type="skybox" builtin="flat" rgb1=".75 .8 .85" rgb2=".75 .8 .85"
 width="8" height="48"/></asset>
<worldbody>
<light pos=".3 -.6 1.5" dir=".2 .5 -1" diffuse=".45 .45 .45" specular=".05 .05 .05" castshadow="false"/>
<camera name="front" pos="0.96 0.27 0.46" xyaxes="-0.5298 0.8481 0.0000 -0.5222 -0.3262 0.7880" fovy="36"/>
<geom name="table" type="plane" size="2 2 .1" rgba=".6 .55 .5 1" friction=".6 .005 .0001"/>
{arm_body()}
<body name="rack" mocap="true" pos=".4 0 0">{rack}</body>
{sockets}{blocks}
<body name="plug" pos=".4 0 .06"><freejoint name="plug"/>
<geom name="plug" type="box" size="{px} {py} {pz}" class="plug"
 mass="{geometry.plug_mass}" friction=".6 .005 .0001" {_CONTACT}/>
<geom name="plug_mark" type="box" size="{px * 0.8} {py * 0.35} .0006" pos="0 0 {pz}" class="visual" mass="0"
 rgba=".1 .1 .1 1"/>
{prongs}</body>
</worldbody>
{arm_equality()}
{arm_actuators()}
</mujoco>"""


def plug_model(geometry: PlugGeometry) -> mujoco.MjModel:
    """Compile the model; 17 bodies of mocap kind, one free body (the plug), the arm."""
    return mujoco.MjModel.from_xml_string(plug_xml(geometry))
