"""What /openapi.json says of the request for samples, with examples."""

from __future__ import annotations

from typing import Any

DESCRIPTION = (
    "Posterior samples of p(x | y) for imaging inverse problems. An image and a description of how "
    "it was measured go in; samples, their mean and their standard deviation come back. Every "
    "failure is one sentence: what was expected, what came, and the remedy."
)

_FIELDS: dict[str, Any] = {
    "operator": {
        "type": "string",
        "description": "How the image was measured, as on the command line; kernels and masks are "
        "uploads, by their names.",
        "example": "blur:std=1.6",
    },
    "noise_std": {"type": "number", "default": 0.02, "description": "Of the measurement, 0 to 1."},
    "num_samples": {"type": "integer", "default": 4, "minimum": 1},
    "seed": {"type": "integer", "default": 0, "minimum": 0},
    "image_id": {"type": "integer", "default": 0, "description": "Identity in the random stream."},
    "sampler": {"type": "string", "default": "auto", "enum": ["auto", "latino", "ud2m"]},
    "steps": {"type": "integer", "description": "LATINO: evaluations. UD2M: outer steps."},
    "unfold": {"type": "integer", "description": "UD2M: inner iterations."},
    "tile": {"type": "integer", "description": "Side of the pieces that the network sees."},
    "overlap": {"type": "integer", "description": "Pixels that tiles share."},
    "simulate": {
        "type": "boolean",
        "default": False,
        "description": "The image is clean: measure it first.",
    },
    "engine": {"type": "string", "description": "One of /v1/engines; the first by default."},
    "format": {"type": "string", "default": "npz", "enum": ["npz", "json", "png", "npy"]},
    "what": {
        "type": "string",
        "default": "mean",
        "description": "Of png: mean, std, measurement, sample-0, ...; of npy: mean, std, samples.",
    },
}
_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["image", "operator"],
    "properties": {"image": {"type": "string", "format": "binary"}, **_FIELDS},
    "additionalProperties": {
        "type": "string",
        "format": "binary",
        "description": "A kernel or a mask that the operator names, e.g. inpaint:mask=mask.png.",
    },
}
_JSON: dict[str, Any] = {
    "type": "object",
    "required": ["image", "operator"],
    "properties": {
        "image": {"type": "string", "contentEncoding": "base64"},
        **_FIELDS,
        "files": {
            "type": "object",
            "additionalProperties": {"type": "string", "contentEncoding": "base64"},
        },
    },
}
_FAILURE: dict[str, Any] = {
    "application/json": {
        "schema": {
            "type": "object",
            "properties": {
                "error": {
                    "type": "object",
                    "properties": {
                        "class": {"type": "string"},
                        "sentence": {"type": "string"},
                        "id": {"type": "string"},
                    },
                }
            },
        },
        "example": {
            "error": {
                "class": "InvalidArgument",
                "sentence": "operator blur, std: expected a number of pixels above 0, at most 256, "
                "got '-1'; write e.g. blur:std=1.6,size=13",
                "id": "9f86d081884c7d65",
            }
        },
    }
}
_REASONS = {
    400: "A request that cannot be drawn.",
    401: "No bearer token, or another one.",
    404: "No engine of that name.",
    413: "A body or an image larger than the service takes.",
    415: "Neither a form nor JSON.",
    429: "As many requests wait as are kept; Retry-After says when to come back.",
    503: "The service shuts down.",
    504: "No answer within the time limit.",
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}

SAMPLE: dict[str, Any] = {
    "responses": {
        200: {
            "description": "The posterior. The header Latino-Figures holds its figures as JSON.",
            "content": {
                "application/zip": _BINARY,
                "application/octet-stream": _BINARY,
                "image/png": _BINARY,
                "application/json": {"schema": {"type": "object"}},
            },
        },
        **{
            status: {"description": reason, "content": _FAILURE}
            for status, reason in _REASONS.items()
        },
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": _FORM},
                "application/json": {
                    "schema": _JSON,
                    "examples": {
                        "deblur": {
                            "value": {
                                "image": "iVBORw0KGgo...",
                                "operator": "blur:std=1.6",
                                "noise_std": 0.02,
                                "format": "json",
                            }
                        },
                        "fill in": {
                            "value": {
                                "image": "iVBORw0KGgo...",
                                "operator": "inpaint:mask=mask.png",
                                "files": {"mask.png": "iVBORw0KGgo..."},
                                "num_samples": 8,
                            }
                        },
                    },
                },
            },
        }
    },
}
